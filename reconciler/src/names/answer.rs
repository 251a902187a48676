//! One question to one answer. Authoritative for names of sandboxes, for nothing else (R-D2, R-D3).

use banger_plan::zone::{TOP, Zone};
use hickory_proto::op::{Edns, Message, MessageType, OpCode, ResponseCode};
use hickory_proto::rr::rdata::A;
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};

/// Seconds that an answer may be remembered.
const TTL: u32 = 2;
/// Bytes of the shortest message: its header.
const HEADER: usize = 12;

/// What becomes of a question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// These bytes go back.
    Reply(Vec<u8>),
    /// It is about something else than sandboxes.
    Elsewhere,
    /// It is no question: it gets no answer, or two servers could answer each other for ever.
    Nothing,
}

/// Answers a question from a zone.
pub fn answer(question: &[u8], zone: &Zone) -> Answer {
    let is_reply = question.get(2).is_some_and(|flags| flags & 0x80 != 0);
    if question.len() < HEADER || is_reply {
        return Answer::Nothing;
    }
    let Ok(asked) = Message::from_vec(question) else {
        let id = u16::from_be_bytes([question[0], question[1]]);
        return reply(Message::error_msg(id, OpCode::Query, ResponseCode::FormErr));
    };
    let mut said = Message::response(asked.metadata.id, asked.metadata.op_code);
    said.metadata.recursion_desired = asked.metadata.recursion_desired;
    said.metadata.authoritative = true;
    if asked.edns.is_some() {
        said.set_edns(Edns::new());
    }
    if asked.metadata.op_code != OpCode::Query {
        said.metadata.response_code = ResponseCode::NotImp;
        return reply(said);
    }
    let [query] = asked.queries.as_slice() else {
        said.metadata.response_code = ResponseCode::FormErr;
        return reply(said);
    };
    said.add_query(query.clone());
    if !is_ours(query.name()) {
        return Answer::Elsewhere;
    }
    let plain = query.query_class() == DNSClass::IN
        && !matches!(query.query_type(), RecordType::ANY | RecordType::AXFR | RecordType::IXFR);
    if !plain {
        said.metadata.response_code = ResponseCode::Refused;
        return reply(said);
    }
    let name = query.name().to_ascii().to_ascii_lowercase();
    match zone.get(name.trim_end_matches('.')) {
        // A sandbox has an address of this kind only: any other type is known to be empty.
        Some(address) if query.query_type() == RecordType::A => {
            let record = Record::from_rdata(query.name().clone(), TTL, RData::A(A(address)));
            said.add_answer(record);
        }
        Some(_) => {}
        None if name.trim_end_matches('.') == TOP => {}
        None => said.metadata.response_code = ResponseCode::NXDomain,
    }
    reply(said)
}

/// The same question refused.
pub(super) fn refuse(question: &[u8]) -> Vec<u8> {
    error(question, ResponseCode::Refused)
}

/// The same question, which could not be answered.
pub(super) fn fail(question: &[u8]) -> Vec<u8> {
    error(question, ResponseCode::ServFail)
}

fn error(question: &[u8], code: ResponseCode) -> Vec<u8> {
    let asked = Message::from_vec(question).unwrap_or_else(|_| {
        let id = question.first_chunk().map_or(0, |id| u16::from_be_bytes(*id));
        Message::new(id, MessageType::Query, OpCode::Query)
    });
    let mut said = Message::response(asked.metadata.id, asked.metadata.op_code);
    said.metadata.recursion_desired = asked.metadata.recursion_desired;
    said.metadata.response_code = code;
    said.add_queries(asked.queries.into_iter().take(1));
    said.to_vec().unwrap_or_default()
}

/// Whether a question is about a name of one label. Such names are local everywhere: no resolver is asked for them.
pub(super) fn has_one_label(question: &[u8]) -> bool {
    let length = question.get(HEADER).copied().map_or(0, usize::from);
    (1..64).contains(&length) && question.get(HEADER + 1 + length) == Some(&0)
}

/// Whether a question is one that is handed on to nobody: whole zones, or everything about a name.
pub(super) fn stays_here(question: &[u8]) -> bool {
    let Ok(asked) = Message::from_vec(question) else { return true };
    asked.metadata.op_code != OpCode::Query
        || asked.queries.iter().any(|query| {
            matches!(query.query_type(), RecordType::ANY | RecordType::AXFR | RecordType::IXFR)
        })
}

/// The same question, whose name does not exist.
pub(super) fn deny(question: &[u8]) -> Vec<u8> {
    error(question, ResponseCode::NXDomain)
}

/// Whether a name is below the top-level name of sandboxes, or is it.
fn is_ours(name: &Name) -> bool {
    name.iter().next_back().is_some_and(|label| label.eq_ignore_ascii_case(TOP.as_bytes()))
}

fn reply(message: Message) -> Answer {
    match message.to_vec() {
        Ok(bytes) => Answer::Reply(bytes),
        Err(_) => Answer::Nothing,
    }
}

#[cfg(test)]
mod tests;
