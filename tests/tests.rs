//! Tests what the program does, seen from outside. There is one crate, with a module for each subject.

mod alerts;
mod anonymous;
mod attribution;
mod cgroup_lines;
mod cli;
mod controls;
mod folding;
mod golden;
mod http;
mod logging;
mod naive;
mod processes;
mod readme;
mod rooms;
mod scanner;
#[path = "bench/scrapes.rs"]
mod scrapes;
mod startup;
mod support;
mod tables;
mod unchanged;
mod unmapped;
mod views;
