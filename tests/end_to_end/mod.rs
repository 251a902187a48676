//! Real guests under the real programs. Each test has a home of its own, and counts what it leaves: nothing.

mod bad_input;
mod cgroup;
mod crash;
mod data;
mod direct;
mod doctor;
mod example;
mod faults;
mod firecracker;
mod flood;
pub(crate) mod home;
mod hostile_daemon;
mod init;
mod jail;
mod kernel;
mod memories;
mod network;
mod oci;
mod owner;
mod rates;
mod run;
mod snapshot;
mod ssh;
mod suspend;
mod ways;
mod workspace;
