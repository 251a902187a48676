//! Carries out one list, action by action, and tells whoever listens.

use super::Engine;
use crate::apply::apply;
use crate::drivers::Progress;
use banger_plan::desired::{Desired, Key};
use banger_plan::plan::List;
use banger_wire::api::{Event, Problem};
use std::sync::Arc;

/// A list that ended.
pub(super) struct Ended {
    pub(super) key: Key,
    pub(super) outcome: Result<(), Problem>,
}

impl Engine {
    /// Carries out a list. The first failure ends it, and so does a newer generation: the next pass plans anew.
    pub(super) async fn carry_out(
        self: &Arc<Self>,
        key: &Key,
        list: &List,
        desired: &Arc<Desired>,
    ) -> Result<(), Problem> {
        for step in &list.steps {
            if !still_current(key, desired, &self.desired()) {
                tracing::debug!("{}: a newer generation came", list.title);
                return Ok(());
            }
            let (resource, action) = (list.title.clone(), step.action.to_string());
            tracing::info!("{resource}: {action} ({})", step.cause);
            let started = Event::Started { resource: resource.clone(), action: action.clone() };
            self.tell(key, started);
            let progress = self.progress(key, &resource, &action);
            let moment = self.moment.as_ref();
            match apply(&step.action, desired, &self.drivers, moment, progress).await {
                Ok(outcome) => {
                    tracing::debug!("{resource}: {action}: {outcome:?}");
                    self.tell(key, Event::Done { resource, action });
                }
                Err(fault) => {
                    let error = fault.problem();
                    tracing::warn!("{resource}: {action}: {}", error.message);
                    self.tell(key, Event::Failed { resource, action, error: error.clone() });
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    fn progress(self: &Arc<Self>, key: &Key, resource: &str, action: &str) -> Progress {
        let (engine, key) = (self.clone(), key.clone());
        let (resource, action) = (resource.to_string(), action.to_string());
        Arc::new(move |done, total| {
            let (resource, action) = (resource.clone(), action.clone());
            engine.tell(&key, Event::Progress { resource, action, done, total });
        })
    }
}

/// Whether a thing is still wanted in the way that its list was planned for.
fn still_current(key: &Key, then: &Desired, now: &Desired) -> bool {
    match key {
        // One step holds all rules: an older list must not write them over newer ones.
        Key::Network => {
            then.subnet == now.subnet
                && banger_plan::policy::policy(then) == banger_plan::policy::policy(now)
        }
        Key::Snapshot(id) => {
            then.snapshots.get(id).map(|s| s.life) == now.snapshots.get(id).map(|s| s.life)
        }
        // They are nobody's wish.
        Key::Memories => true,
        Key::Kernel(digest) => {
            then.kernels.get(digest).map(|k| k.life) == now.kernels.get(digest).map(|k| k.life)
        }
        Key::Image(digest) => {
            then.images.get(digest).map(|i| i.life) == now.images.get(digest).map(|i| i.life)
        }
        Key::Volume(id) => then.volumes.get(id) == now.volumes.get(id),
        Key::Sandbox(id) => {
            let of = |desired: &Desired| desired.sandboxes.get(id).map(|s| (s.generation, s.life));
            of(then) == of(now)
        }
    }
}
