//! Desired and Actual to a Plan. Pure: the same input gives the same bytes.
//!
//! Every kernel, image, volume and sandbox has one list of steps. A list is carried out in order, beside the
//! others; one that waits is not carried out at all until a later pass sees what it waits for.

use crate::action::Action;
use crate::actual::Actual;
use crate::desired::{Desired, Key};
use crate::kind;
use banger_wire::api;
use banger_wire::id::Name;
use std::collections::BTreeMap;
use std::fmt;

/// What is to be done, by thing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// Lists that are not empty.
    pub lists: BTreeMap<Key, List>,
}

/// What is to be done for one thing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct List {
    /// What it is called, for people.
    pub title: String,
    /// In order. Removals come before additions.
    pub steps: Vec<Step>,
    /// What must be seen first. While this is not empty, no step is taken.
    pub waits: Vec<Wait>,
    /// What should be done but may not.
    pub blocked: Vec<String>,
}

impl List {
    /// Adds a step.
    pub fn push(&mut self, action: Action, cause: impl Into<String>) {
        self.steps.push(Step { action, cause: cause.into() });
    }

    /// The step that starts a VMM, when there is one.
    pub fn start(&self) -> Option<&Step> {
        self.steps.iter().find(|step| matches!(step.action, Action::StartVmm { .. }))
    }

    fn is_empty(&self) -> bool {
        self.steps.is_empty() && self.waits.is_empty() && self.blocked.is_empty()
    }
}

/// One action and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// What is done.
    pub action: Action,
    /// Why, for people.
    pub cause: String,
}

/// What a list waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wait {
    /// Something that another list makes.
    For(Key, String),
    /// Another sandbox to be ready.
    Ready(Name),
    /// Some of so many guests that boot to be done with it: the loop lets only so many boot at once.
    Turn(usize),
}

impl fmt::Display for Wait {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Wait::For(_, title) => write!(f, "waiting for {title}"),
            Wait::Ready(name) => write!(f, "waiting for sandbox {name} to be ready"),
            Wait::Turn(others) => write!(f, "waiting for its turn: {others} guests boot"),
        }
    }
}

/// What has to be done so that what is seen becomes what is desired.
pub fn plan(desired: &Desired, actual: &Actual) -> Plan {
    let mut plan = Plan::default();
    let mut add = |key: Key, list: List| {
        if !list.is_empty() {
            let title = desired.title(&key);
            plan.lists.insert(key, List { title, ..list });
        }
    };
    add(Key::Network, kind::network::plan_network(desired, actual));
    add(Key::Memories, kind::memory::plan_memories(desired, actual));
    for (recipe, kernel) in &desired.kernels {
        add(Key::Kernel(recipe.clone()), kind::kernel::plan_kernel(recipe, kernel, actual));
    }
    for (recipe, image) in &desired.images {
        add(Key::Image(recipe.clone()), kind::image::plan_image(recipe, image, actual));
    }
    for (id, volume) in &desired.volumes {
        add(Key::Volume(id.clone()), kind::volume::plan_volume(id, volume, actual));
    }
    for (id, snapshot) in &desired.snapshots {
        let list = kind::snapshot::plan_snapshot(id, snapshot, desired, actual);
        add(Key::Snapshot(id.clone()), list);
    }
    for (id, sandbox) in &desired.sandboxes {
        add(Key::Sandbox(id.clone()), kind::plan_sandbox(sandbox, desired, actual));
    }
    plan
}

impl Plan {
    /// The part that belongs to one project: its things, and what they are made from; and what is done to the
    /// network while one of its sandboxes has something to do.
    pub fn of_project(&self, desired: &Desired, project: &Name) -> Plan {
        let busy = self
            .lists
            .keys()
            .any(|key| matches!(key, Key::Sandbox(_)) && desired.belongs(key, project));
        let ours =
            |key: &Key| if *key == Key::Network { busy } else { desired.belongs(key, project) };
        let lists = self.lists.iter().filter(|(key, _)| ours(key));
        Plan { lists: lists.map(|(key, list)| (key.clone(), list.clone())).collect() }
    }

    /// Whether nothing is to be done, waited for or decided.
    pub fn is_empty(&self) -> bool {
        self.lists.is_empty()
    }

    /// Whether it has a step that destroys data.
    pub fn destroys(&self) -> bool {
        self.lists.values().flat_map(|list| &list.steps).any(|step| step.action.destroys())
    }

    /// One line per action, as people and programs see it.
    pub fn view(&self) -> api::Plan {
        let mut lines = Vec::new();
        let mut lists: Vec<(&Key, &List)> = self.lists.iter().collect();
        // By name: ids mean nothing to people. The kinds stay in their order.
        lists.sort_by_key(|(key, list)| (key.kind(), list.title.clone()));
        for (_, list) in lists {
            for step in &list.steps {
                lines.push(api::PlanLine {
                    sign: step.action.sign(),
                    resource: list.title.clone(),
                    action: step.action.to_string(),
                    cause: step.cause.clone(),
                    destroys: step.action.destroys(),
                });
            }
            for why in &list.blocked {
                lines.push(api::PlanLine {
                    sign: '!',
                    resource: list.title.clone(),
                    action: "blocked".to_string(),
                    cause: why.clone(),
                    destroys: false,
                });
            }
        }
        api::Plan { lines }
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for line in self.view().lines {
            writeln!(f, "{} {}: {} ({})", line.sign, line.resource, line.action, line.cause)?;
        }
        Ok(())
    }
}
