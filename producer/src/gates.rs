//! The rules of an environment, for those who set them and those who live with them.
//!
//! In reading order: [`reading`] finds and believes what was said; [`saying`] signs and publishes; [`precheck`] asks the rules before a
//! promotion is published. The commands are [`policy`], [`freeze`], [`approve`] and [`absolve`].

pub mod absolve;
pub mod approve;
pub mod freeze;
pub mod policy;
pub mod precheck;
pub mod reading;
pub mod saying;
