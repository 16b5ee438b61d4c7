//! Why processes cannot train together.

use std::net::IpAddr;
use std::time::Duration;

/// Why processes cannot train together.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DistError {
    /// A variable of the launcher cannot be used.
    #[error("environment variable {name} = {value:?}: {reason}")]
    Variable {
        /// Its name.
        name: &'static str,
        /// Its value; empty if it is not set.
        value: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The first process does not answer.
    #[error(
        "process {rank} of {size} cannot reach the first process at {address}:{port} within {} s \
         ({reason}); check that process 0 runs, that MASTER_ADDR and MASTER_PORT name its host and a \
         free port, and that no firewall is between", timeout.as_secs()
    )]
    Unreachable {
        /// This process.
        rank: usize,
        /// How many there are.
        size: usize,
        /// MASTER_ADDR.
        address: String,
        /// MASTER_PORT.
        port: u16,
        /// How long it was tried.
        timeout: Duration,
        /// What the store said.
        reason: String,
    },
    /// The name of the first process's host means nothing here.
    #[error(
        "cannot resolve {address:?}, the host of process 0 (MASTER_ADDR, or the first node of the job): \
         {reason}"
    )]
    Resolve {
        /// MASTER_ADDR.
        address: String,
        /// What the system said.
        reason: String,
    },
    /// The first process cannot listen.
    #[error(
        "process 0 cannot listen on {address}, port {port}: {reason}; choose a free port with MASTER_PORT, \
         or with --port of nearkin launch"
    )]
    Serve {
        /// Where it tried to.
        address: IpAddr,
        /// MASTER_PORT.
        port: u16,
        /// What the system said.
        reason: String,
    },
    /// A process of this number is there already.
    #[error(
        "there is a process {rank} of {size} already: the last attempt has not ended yet, or two \
         processes were given the same number; start it again"
    )]
    Again {
        /// The number.
        rank: usize,
        /// How many processes there are.
        size: usize,
    },
    /// Another process said that it failed.
    #[error("{message}")]
    Elsewhere {
        /// Which one, and why.
        message: String,
    },
    /// The processes do not run the same job.
    #[error(
        "process {rank} has another {what} than process 0: {theirs}, there {first}; start all \
         processes with the same program, recipe and data"
    )]
    Mismatch {
        /// The process that differs.
        rank: usize,
        /// In what.
        what: String,
        /// What it has.
        theirs: String,
        /// What process 0 has.
        first: String,
    },
    /// Processes were waited for in vain.
    #[error("waited {} s for {what} of process(es) {missing:?} of {size}", waited.as_secs())]
    Late {
        /// What was waited for.
        what: String,
        /// Who did not come.
        missing: Vec<usize>,
        /// How many processes there are.
        size: usize,
        /// How long it was waited.
        waited: Duration,
    },
    /// c10d failed.
    #[error("c10d: {0}")]
    Engine(String),
}

impl From<cxx::Exception> for DistError {
    fn from(exception: cxx::Exception) -> Self {
        Self::Engine(exception.what().to_owned())
    }
}
