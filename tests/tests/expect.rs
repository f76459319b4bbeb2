//! What tests of failures have in common.

use anyhow::Result;
use landfall_schema::outcome::{Outcome, OutcomeKind, Reason, ReasonCode};
use landfall_tests::registry::PushedImage;
use landfall_tests::scenario::Scenario;
use landfall_tests::stack::Stack;

/// One host on which `v1` serves, and what must be untouched by a bad promotion.
pub(crate) struct Served {
    pub(crate) scenario: Scenario,
    pub(crate) v1: PushedImage,
    container: String,
}

impl Served {
    pub(crate) async fn v1() -> Result<Self> {
        Self::over(Scenario::start().await?).await
    }

    /// Deploys `v1` in a scenario whose first host is running.
    pub(crate) async fn over(mut scenario: Scenario) -> Result<Self> {
        let v1 = scenario.deploy_v1().await?;
        let container = scenario.container()?;
        Ok(Self { scenario, v1, container })
    }

    /// The very container that served before still does.
    pub(crate) async fn assert_untouched(&self) -> Result<()> {
        self.scenario.assert_runs(&self.v1, "v1").await?;
        assert_eq!(self.scenario.container()?, self.container, "the old version's container was replaced");
        Ok(())
    }

    /// Nothing was lost: the next good release is deployed.
    pub(crate) async fn assert_goes_on(&mut self) -> Result<()> {
        let good = self.scenario.push("good", landfall_tests::image::AppImage::version("good")).await?;
        self.scenario.succeed(&Stack::app(&good)).await?;
        self.scenario.assert_runs(&good, "good").await
    }

    /// The stack must fail before anything is touched, for this reason.
    pub(crate) async fn assert_fails(&mut self, stack: &Stack, code: ReasonCode) -> Result<Reason> {
        let outcome = self.scenario.deploy(stack).await?;
        let reason = ended(&outcome, OutcomeKind::DeployFailed, code);
        self.assert_untouched().await?;
        Ok(reason)
    }

    /// The stack must fail after the swap, for this reason, and `v1` must be back.
    pub(crate) async fn assert_rolls_back(&mut self, stack: &Stack, code: ReasonCode) -> Result<Outcome> {
        let outcome = self.scenario.deploy(stack).await?;
        ended(&outcome, OutcomeKind::DeployRolledBack, code);
        assert_eq!(outcome.former.as_ref().map(ToString::to_string).as_deref(), Some("r1"));
        assert_eq!(outcome.running.values().collect::<Vec<_>>(), [&self.v1.digest]);
        self.scenario.assert_runs(&self.v1, "v1").await?;
        Ok(outcome)
    }
}

/// The outcome is of this kind, for this reason, with words for people.
pub(crate) fn ended(outcome: &Outcome, kind: OutcomeKind, code: ReasonCode) -> Reason {
    assert_eq!(outcome.kind, kind, "{outcome:#?}");
    let reason = outcome.reason.clone().unwrap_or_else(|| panic!("no reason: {outcome:#?}"));
    assert_eq!(reason.code, code, "{outcome:#?}");
    assert!(!reason.message.is_empty() && !outcome.message.is_empty(), "{outcome:#?}");
    reason
}
