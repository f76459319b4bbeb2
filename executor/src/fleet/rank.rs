//! Which hosts decide. Any may; a few do at once, and more join the longer a rollout takes, so that it goes on whoever dies, and so that a
//! large fleet does not read each of its words on every host.

use std::time::Duration;

use landfall_deploy::Order;
use landfall_schema::ids::Digest;

/// So many hosts decide from the beginning.
const AT_ONCE: usize = 3;
/// After this time so many more join, and as many each time that it has doubled: a long rollout of a large fleet has some dozens that decide.
const STEP: Duration = Duration::from_secs(10);
/// Nobody waits through more doublings; that is four months.
const DOUBLINGS_MAX: usize = 20;

/// When this host begins to decide; `None` for a host that the plan does not name.
pub(super) fn delay(order: &Order) -> Option<Duration> {
    let plan = &order.promotion.plan;
    plan.place_of(&order.host)?;
    // By a hash, so that it is not always the canary that decides.
    let weight = |host: &str| Digest::of(format!("{} {host}", order.id).as_bytes());
    let own = weight(order.host.as_str());
    let before = plan.hosts().filter(|host| weight(host.as_str()) < own).count();
    Some(match before / AT_ONCE {
        0 => Duration::ZERO,
        group => STEP * 2_u32.pow(u32::try_from((group - 1).min(DOUBLINGS_MAX)).unwrap_or(0)),
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use landfall_schema::promotion::Wave;

    use super::*;
    use crate::samples;

    #[test]
    fn three_at_once_and_then_three_more() {
        let mut order = samples::order(1);
        let names: Vec<_> = (0..14).map(|n| format!("h{n}").parse().unwrap()).collect();
        order.promotion.plan.waves = vec![Wave::of(names.clone())];
        let mut delays: Vec<u64> =
            names.into_iter().map(|host| delay(&Order { host, ..order.clone() }).unwrap().as_secs()).collect();
        delays.sort_unstable();
        assert_eq!(delays, [0, 0, 0, 10, 10, 10, 20, 20, 20, 40, 40, 40, 80, 80]);
        assert_eq!(delay(&Order { host: "other".parse().unwrap(), ..order }), None);
    }

    #[test]
    fn nobody_waits_through_more_doublings() {
        let mut order = samples::order(1);
        let names: Vec<_> = (0..(DOUBLINGS_MAX + 3) * AT_ONCE).map(|n| format!("h{n}").parse().unwrap()).collect();
        order.promotion.plan.waves = vec![Wave::of(names.clone())];
        let mut delays: Vec<Duration> =
            names.into_iter().map(|host| delay(&Order { host, ..order.clone() }).unwrap()).collect();
        delays.sort_unstable();
        let longest = STEP * 2_u32.pow(20);
        assert_eq!(delays.iter().filter(|delay| **delay == longest).count(), 2 * AT_ONCE);
        assert_eq!(delays.last(), Some(&longest));
    }
}
