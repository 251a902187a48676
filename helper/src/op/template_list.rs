//! The caller's templates.

use crate::answer::Answer;
use crate::jail::template;
use crate::table::Caller;
use banger_wire::helper::Reply;

pub(crate) fn run(caller: &Caller) -> Answer {
    Ok(Reply::Templates { templates: template::list(caller)? })
}
