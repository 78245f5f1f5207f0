//! The HTTP server, and the transfer of expositions from the scrape thread to it.

mod connection;
mod connections;
pub mod gzip;
mod head;
mod hosts;
mod page;
mod pending;
pub mod publish;
mod response;
mod routes;
mod server;
mod site;
mod throttle;
pub mod views;

pub(crate) use hosts::is_host_name;

pub use head::{Head, Parsed, parse_head};
pub use server::Server;
