//! Networks: which sandboxes reach each other.

use serde::{Deserialize, Serialize};

/// Sandboxes that reach each other by name and address.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetworkSpec {
    /// Who may be on it.
    pub scope: Scope,
}

/// Who may be on a network.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scope {
    /// Sandboxes of the project that declares it.
    #[default]
    Project,
    /// Sandboxes of every project that declares a network of this name with this scope: both have to say so.
    Host,
}
