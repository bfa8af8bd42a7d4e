//! Transcripts: where they are, how they are read, and what they say.

pub(crate) mod damaged_line;
pub mod index;
pub mod locate;
pub mod reader;
pub mod record;
pub(crate) mod record_json;
pub mod render;
pub mod summary;
pub mod tail;
pub(crate) mod tail_state;
pub mod tokens;
