//! The calls, a file per family: rows of the table, and a function of a few lines for each.

pub mod event;
