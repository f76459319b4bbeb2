//! Who has approved.

use landfall_schema::gates::{Approval, ApprovalRule, ApprovalVerdict, Approver};
use landfall_schema::ids::{Digest, EventId};
use landfall_schema::planted::planted;
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
    /// The rule names fewer people than it needs, so it is never fulfilled.
    Impossible {
        people: usize,
        need: u32,
    },
}

/// Whether two entries are of one person: somebody with two keys, or two names for one key, counts once.
pub fn is_same_person(one: &Approver, other: &Approver) -> bool {
    let name = |approver: &Approver| approver.name.trim().to_lowercase();
    one.key == other.key || name(one) == name(other)
}

/// Counts the people who approved exactly this promotion. What was said about another one, or about other bytes, does not count, and neither
/// does the approval of whoever signed the promotion, under whichever of their keys; that person may still reject it.
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
    if let Some(impossible) = impossible(rule) {
        return impossible;
    }
    let is_approval = said.is_some_and(|said| said.data.verdict == ApprovalVerdict::Approved);
    let promoters: Vec<&Approver> = rule.of.iter().filter(|one| promoted_by.contains(&one.key)).collect();
    let others = || rule.of.iter().filter(|one| !promoters.iter().any(|promoter| is_same_person(promoter, one)));
    let counted = distinct(others().filter(|one| is_approval && signed(&one.key)));
    let people = match said {
        Some(said) if planted("count_a_key_twice") => said.signers.len(),
        _ => counted.len(),
    };
    let have = u32::try_from(people).unwrap_or(u32::MAX);
    if have >= rule.need {
        return Approvals::Enough;
    }
    let missing = distinct(others().filter(|one| !counted.iter().any(|known| is_same_person(known, one))));
    Approvals::Missing {
        have,
        need: rule.need,
        waiting_for: missing.into_iter().map(|approver| approver.name.clone()).collect(),
    }
}

/// [`Approvals::Impossible`] for a rule that nobody can fulfil. None is put into force any more, but one may be from before.
pub fn impossible(rule: &ApprovalRule) -> Option<Approvals> {
    let (people, need) = (distinct(rule.of.iter()).len(), rule.need);
    u32::try_from(people).is_ok_and(|people| people < need).then_some(Approvals::Impossible { people, need })
}

/// Each person once, by the first entry.
fn distinct<'a>(approvers: impl Iterator<Item = &'a Approver>) -> Vec<&'a Approver> {
    let mut people: Vec<&Approver> = Vec::new();
    for approver in approvers {
        if !people.iter().any(|known| is_same_person(known, approver)) {
            people.push(approver);
        }
    }
    people
}
