//! How a machine is cut off: what still arrives, and from whom.

use std::net::Ipv4Addr;

/// Packets that are lost silently, as on a network that broke, and not refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cut {
    pub from: Whom,
    pub direction: Direction,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whom {
    /// One program elsewhere, e.g. the test's NATS server.
    Server { address: Ipv4Addr, port: u16 },
    /// Everything outside, for the machine and for its containers.
    Everyone,
}

/// As the machine sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// It hears nothing, and is heard.
    In,
    /// It hears, and is not heard.
    Out,
    Both,
}

impl Cut {
    /// Rules of the table `mangle`, which the engine does not use: before routing for what comes, after it for what leaves, so that
    /// containers are cut off as well.
    pub(crate) fn rules(self) -> Vec<String> {
        let (comes, leaves) = match self.from {
            Whom::Server { address, port } => (
                format!("PREROUTING -s {address} -p tcp --sport {port} -j DROP"),
                format!("POSTROUTING -d {address} -p tcp --dport {port} -j DROP"),
            ),
            Whom::Everyone => ("PREROUTING -i eth0 -j DROP".to_owned(), "POSTROUTING -o eth0 -j DROP".to_owned()),
        };
        match self.direction {
            Direction::In => vec![comes],
            Direction::Out => vec![leaves],
            Direction::Both => vec![comes, leaves],
        }
    }
}
