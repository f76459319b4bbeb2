#![allow(clippy::unwrap_used)]
use super::*;

fn settings(json: &str) -> Defaults {
    Defaults { settings: serde_json::from_str(json).unwrap(), bake_ms: Some(7), on_failure: OnFailure::RollbackAll }
}

#[test]
fn the_command_line_wins_over_the_compose_file() {
    let defaults = settings(
        r#"{"waves": [1, "100%"], "bake_ms": 5000, "deadline_ms": 60000, "max_parallel": 3, "on_failure": "hold", "offline": "block"}"#,
    );
    let of_file = RolloutArgs::default().options(&defaults).unwrap();
    assert_eq!(of_file.cuts.iter().map(|cut| cut.size.to_string()).collect::<Vec<_>>(), ["1", "100%"]);
    assert_eq!((of_file.bake_ms, of_file.deadline_ms, of_file.max_parallel), (5_000, 60_000, Some(3)));
    assert_eq!((of_file.on_failure, of_file.offline), (OnFailure::Hold, Offline::Block));
    let args = RolloutArgs {
        waves: vec![WaveSize::ALL],
        bake: vec![1_000],
        deadline: Some(30_000),
        max_parallel: Some(1),
        on_failure: Some(OnFailure::RollbackAll),
        offline: Some(Offline::Skip),
        ..RolloutArgs::default()
    };
    let named = args.options(&defaults).unwrap();
    assert_eq!((named.cuts.len(), named.bake_ms, named.deadline_ms, named.max_parallel), (1, 1_000, 30_000, Some(1)));
    assert_eq!((named.on_failure, named.offline), (OnFailure::RollbackAll, Offline::Skip));
}

#[test]
fn without_anything_all_hosts_go_at_once() {
    let options = RolloutArgs::default().options(&settings("{}")).unwrap();
    assert_eq!((options.cuts.len(), options.cuts[0].size), (1, WaveSize::ALL));
    assert_eq!((options.bake_ms, options.deadline_ms, options.offline), (7, DEADLINE_DEFAULT_MS + 7, Offline::Skip));
}

#[test]
fn a_time_for_every_wave_or_one_for_each() {
    let waves = || ["1", "50%", "100%"].map(|size| size.parse().unwrap()).to_vec();
    let each = RolloutArgs { waves: waves(), bake: vec![3, 2, 1], wave_deadline: vec![900], ..RolloutArgs::default() };
    let options = each.options(&settings("{}")).unwrap();
    let times: Vec<_> = options.cuts.iter().map(|cut| (cut.bake_ms, cut.deadline_ms)).collect();
    assert_eq!(times, [(Some(3), Some(900)), (Some(2), Some(900)), (Some(1), Some(900))]);
    assert_eq!(options.bake_ms, 0);
    for (args, told) in [
        (
            RolloutArgs { waves: waves(), bake: vec![3, 2], ..RolloutArgs::default() },
            "--bake names 2 times for 3 waves",
        ),
        (RolloutArgs { bake: vec![5_000], deadline: Some(5_000), ..RolloutArgs::default() }, "wave 1 cannot end"),
        (RolloutArgs { waves: vec![WaveSize::Hosts(1)], ..RolloutArgs::default() }, "the last wave must be 100%"),
        (
            RolloutArgs {
                labels: [("role", "web"), ("role", "db")]
                    .map(|(key, value)| (key.to_owned(), value.to_owned()))
                    .to_vec(),
                ..RolloutArgs::default()
            },
            "both role=web and role=db",
        ),
    ] {
        let error = args.options(&settings("{}")).unwrap_err();
        assert!(error.to_string().contains(told) && error.exit == crate::error::ExitCode::Usage, "{error}");
    }
}

#[test]
fn policies_and_labels_of_the_command_line() {
    for text in ["rollback_all", "rollback-all"] {
        assert_eq!(parse_on_failure(text), Ok(OnFailure::RollbackAll));
    }
    assert_eq!(parse_on_failure("hold"), Ok(OnFailure::Hold));
    assert_eq!((parse_offline("skip"), parse_offline("block")), (Ok(Offline::Skip), Ok(Offline::Block)));
    assert!(parse_on_failure("panic").is_err() && parse_offline("wait").is_err());
    assert_eq!(parse_label("a=b=c"), Ok(("a".to_owned(), "b=c".to_owned())));
    assert!(parse_label("web").is_err() && parse_label("=web").is_err());
}
