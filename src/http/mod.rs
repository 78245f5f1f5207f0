//! The HTTP server, and the hand-over of expositions to it.

mod connection;
mod connections;
mod head;
mod header_fields;
mod hosts;
mod limits;
mod page;
pub mod publish;
mod response;
mod routes;
mod server;
mod site;
mod throttle;
mod wait;

pub(crate) use hosts::is_host_name;

pub use head::{Head, Parsed, parse_head};
pub use server::{ListenError, Server};
