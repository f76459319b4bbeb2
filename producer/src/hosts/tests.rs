use super::*;
use crate::fixtures::{at, present, promoted, said};
use crate::output::table;

#[test]
fn here_and_away() {
    let lines = lines(
        vec![present(90, "host-a", Some(1)), present(91, "host-b", None)],
        &[promoted(5, 1, &["host-a", "host-c"])],
        &[said(10, "host-a 1 deploy.succeeded"), said(20, "host-d 1 deploy.failed")],
    );
    let header = ["host", "state", "version", "engine", "disk free", "runs", "labels", "last seen"];
    let expect = "\
HOST    STATE  VERSION  ENGINE  DISK FREE  RUNS                LABELS  LAST SEEN
host-a  here   0.1.0    28.5.2  41.5 GB    shop v1             zone=a  10 s ago
host-b  here   0.1.0    28.5.2  41.5 GB    shop (nothing yet)  zone=a  9 s ago
host-c  away   -        -       -          -                   -       -
host-d  away   -        -       -          -                   -       80 s ago";
    assert_eq!(table(&header, lines.iter().map(|line| row(line, at(100)))), expect);
}

#[test]
fn sizes() {
    assert_eq!([0, 999_999_999, 1_500_000_000].map(bytes), ["0 MB", "999 MB", "1.5 GB"]);
}
