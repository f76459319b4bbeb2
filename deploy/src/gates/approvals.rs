//! Who has approved.

use landfall_schema::gates::{Approval, ApprovalRule, ApprovalVerdict};
use landfall_schema::ids::{Digest, EventId};
use landfall_schema::signature::PublicKey;

use super::Said;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Approvals {
    Enough,
    Missing {
        have: u32,
        need: u32,
        /// Names of those who may approve and have not; without whoever promoted.
        waiting_for: Vec<String>,
    },
    Rejected {
        by: String,
        note: String,
    },
}

/// Counts the approvals of exactly this promotion. What was said about another one, or about other bytes, does not count, and neither does
/// the approval of whoever signed the promotion; that person may still reject it.
pub fn count(
    rule: &ApprovalRule,
    promotion: EventId,
    digest: &Digest,
    said: Option<&Said<Approval>>,
    promoted_by: &[PublicKey],
) -> Approvals {
    let said = said.filter(|said| said.data.promotion == promotion && said.data.digest == *digest);
    let signed = |key: &PublicKey| said.is_some_and(|said| said.signers.contains(key));
    if let Some(said) = said.filter(|said| said.data.verdict == ApprovalVerdict::Rejected)
        && let Some(by) = rule.of.iter().find(|approver| signed(&approver.key))
    {
        return Approvals::Rejected { by: by.name.clone(), note: said.data.note.clone() };
    }
    let is_approval = said.is_some_and(|said| said.data.verdict == ApprovalVerdict::Approved);
    let mut counted: Vec<&PublicKey> = Vec::new();
    let mut waiting_for = Vec::new();
    for approver in rule.of.iter().filter(|approver| !promoted_by.contains(&approver.key)) {
        if counted.contains(&&approver.key) {
            continue;
        }
        if is_approval && signed(&approver.key) {
            counted.push(&approver.key);
        } else {
            waiting_for.push(approver.name.clone());
        }
    }
    let have = u32::try_from(counted.len()).unwrap_or(u32::MAX);
    if have >= rule.need { Approvals::Enough } else { Approvals::Missing { have, need: rule.need, waiting_for } }
}
