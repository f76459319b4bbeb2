#![allow(clippy::unwrap_used)]
use super::*;
use crate::fixtures::{at, present, promoted, said};
use crate::output::table;

#[test]
fn here_and_away() {
    let lines = lines(
        vec![present(90, "host-a", Some(1)), present(91, "host-b", None)],
        &[promoted(5, 1, &["host-a", "host-c"])],
        &[said(10, "host-a 1 deploy.succeeded"), said(20, "host-d 1 deploy.failed")],
        at(100),
    );
    let expect = "\
HOST    STATE  VERSION  ENGINE  DISK FREE  RUNS                LABELS  LAST SEEN
host-a  here   0.1.0    28.5.2  41.5 GB    shop v1             zone=a  10 s ago
host-b  here   0.1.0    28.5.2  41.5 GB    shop (nothing yet)  zone=a  9 s ago
host-c  away   -        -       -          -                   -       -
host-d  away   -        -       -          -                   -       80 s ago";
    assert_eq!(table(&HEADER, lines.iter().map(|line| row(line, at(100)))), expect);
}

#[test]
fn a_host_whose_last_sign_of_life_is_old_is_away() {
    let mut old = present(0, "host-b", Some(1));
    old.event.data.previews = ["shop".parse().unwrap()].into();
    let lines = lines(vec![present(9_950, "host-a", Some(2)), old], &[], &[], at(10_000));
    let expect = "\
HOST    STATE  VERSION  ENGINE  DISK FREE  RUNS                      LABELS  LAST SEEN
host-a  here   0.1.0    28.5.2  41.5 GB    shop v2                   zone=a  50 s ago
host-b  away   0.1.0    28.5.2  41.5 GB    shop v1, shop (previews)  zone=a  2 h ago";
    assert_eq!(table(&HEADER, lines.iter().map(|line| row(line, at(10_000)))), expect);
    assert_eq!(lines.iter().map(|line| line.away_since).collect::<Vec<_>>(), [None, Some(at(0))]);
}

#[test]
fn sizes() {
    assert_eq!([0, 999_999_999, 1_500_000_000].map(bytes), ["0 MB", "999 MB", "1.5 GB"]);
}
