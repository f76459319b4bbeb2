//! Replay: a machine is its inputs. The daemon journals every input before the machine handles it, so after a crash the same inputs
//! make the same machine, and the effect that was under way is asked for again.

use landfall_schema::Timestamp;

use crate::input::Input;
use crate::machine::{IllegalInput, Machine};
use crate::order::Order;

impl Machine {
    /// The machine after these inputs. Its outcomes so far are dropped, since they are in the outbox already; the effect under way is
    /// offered once more after [`Input::Resumed`].
    ///
    /// # Errors
    /// [`IllegalInput`] when the inputs are not what a machine of this version could have been given: the journal is damaged, or was
    /// written by another version.
    pub fn replay(order: Order, inputs: impl IntoIterator<Item = (Timestamp, Input)>) -> Result<Self, IllegalInput> {
        let mut machine = Self::new(order);
        for (at, input) in inputs {
            machine.handle(input, at)?;
            while machine.next_effect().is_some() {}
            while machine.next_outcome().is_some() {}
        }
        Ok(machine)
    }
}
