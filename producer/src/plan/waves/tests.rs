#![allow(clippy::unwrap_used)]
use super::*;

fn sizes(text: &str) -> Vec<WaveSize> {
    text.split(',').map(|size| size.parse().unwrap()).collect()
}

/// `h1 h2 | h3`, with `@` and the deadline where a wave has one of its own.
fn shown(hosts: usize, text: &str, max_parallel: Option<u32>) -> String {
    let hosts: Vec<HostName> = (1..=hosts).map(|number| format!("h{number}").parse().unwrap()).collect();
    let cut = |size| Cut { size, bake_ms: None, deadline_ms: None, deadline_per_batch: true };
    let cuts: Vec<Cut> = sizes(text).into_iter().map(cut).collect();
    let waves = super::cut(&hosts, &cuts, 100, max_parallel);
    let shown = waves.iter().map(|wave| {
        let names: Vec<&str> = wave.hosts.iter().map(HostName::as_str).collect();
        let deadline = wave.deadline_ms.map_or(String::new(), |deadline| format!("@{deadline}"));
        format!("{}{deadline}", names.join(" "))
    });
    shown.collect::<Vec<_>>().join(" | ")
}

#[test]
fn hosts_by_wave() {
    for (hosts, text, expect) in [
        (8, "1,25%,100%", "h1 | h2 | h3 h4 h5 h6 h7 h8"),
        (8, "1,50%,100%", "h1 | h2 h3 h4 | h5 h6 h7 h8"),
        (3, "100%", "h1 h2 h3"),
        (1, "1,25%,100%", "h1"),
        (2, "1,25%,100%", "h1 | h2"),
        (2, "5,100%", "h1 h2"),
        (3, "10%,20%,100%", "h1 | h2 h3"),
        (0, "1,100%", ""),
    ] {
        assert_eq!(shown(hosts, text, None), expect, "{hosts} in {text}");
    }
}

#[test]
fn a_batch_at_a_time_has_the_whole_time() {
    assert_eq!(shown(6, "1,100%", Some(2)), "h1 | h2 h3 h4 h5 h6@300");
    assert_eq!(shown(6, "1,100%", Some(9)), "h1 | h2 h3 h4 h5 h6");
}

#[test]
fn waves_that_cannot_be() {
    for (text, why) in [
        ("1,25%", "the last wave must be 100%"),
        ("25%,10%,100%", "10% does not go further than 25%"),
        ("2,2,100%", "2 does not go further than 2"),
        ("100%,5,100%", "5 does not go further than 100%"),
    ] {
        let error = check(&sizes(text)).unwrap_err().to_string();
        assert!(error.contains(why) && error.contains("hint:"), "{text}: {error}");
    }
    for text in ["100%", "1,100%", "1,25%,100%", "10%,3,100%"] {
        check(&sizes(text)).unwrap();
    }
}
