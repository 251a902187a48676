//! The arguments of what is done with snapshots.

use banger_wire::id::Name;
use clap::{Args, Subcommand};

#[derive(Debug, Args)]
pub(crate) struct Take {
    /// Which sandbox
    pub(crate) name: Name,
    /// What the snapshot is called; s1, s2, … if not given
    pub(crate) snapshot: Option<Name>,
    /// Leave the memory out: what begins from it boots
    #[arg(long)]
    pub(crate) disk_only: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Restore {
    /// Which sandbox
    pub(crate) name: Name,
    /// The snapshot
    pub(crate) snapshot: Name,
    /// Without asking: what is on its disk now is lost
    #[arg(short, long)]
    pub(crate) yes: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Fork {
    /// Which sandbox
    pub(crate) name: Name,
    /// The name of the new one
    pub(crate) new: Name,
    /// Where one of its snapshots was taken, instead of where it is now
    #[arg(long)]
    pub(crate) snapshot: Option<Name>,
    /// Leave the memory out: the new one boots
    #[arg(long, conflicts_with = "snapshot")]
    pub(crate) disk_only: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Snapshots {
    /// List snapshots
    List,
    /// Remove a snapshot
    Delete {
        /// Which
        name: Name,
        /// Without asking
        #[arg(short, long)]
        yes: bool,
    },
}
