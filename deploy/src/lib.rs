//! What a deploy is: a state machine without IO, clock or async. The same machine runs in the daemon and in tests.
//!
//! The contract: give it one [`Input`] with the time, then drain [`Machine::next_effect`] and [`Machine::next_outcome`] until both are
//! empty, then give it the next input. Every effect is answered by exactly one `Finished` or `Failed`. An [`Effect`] is one externally
//! visible act and is repeatable: after a crash the journal's inputs are replayed and the effect that was under way is asked for again.
//!
//! In reading order: [`order`] is what was asked for; [`effect`] and [`input`] are the machine's two sides; [`machine`] is the deploy;
//! [`health`] and [`smoke`] judge what was observed; [`journal`] replays; [`report`] words outcomes for people;
//! [`rollout`] judges the fleet, [`gates`] the rules of the environment.

pub mod effect;
pub mod gates;
pub mod health;
pub mod input;
pub mod journal;
pub mod machine;
pub mod order;
pub mod report;
pub mod rollout;
pub mod smoke;

pub use effect::Effect;
pub use input::{Evidence, Former, Input, Observed};
pub use machine::{IllegalInput, Machine};
pub use order::Order;
