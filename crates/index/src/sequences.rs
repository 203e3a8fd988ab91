//! Numbers that are never given out twice, over restarts too: for snapshot
//! directories and ingests, whose names outlive the rows that speak of them.
//!
//! They are reserved by the block, so that most cost no transaction; what is
//! left of a block when the daemon ends is skipped.

use std::ops::Range;

use rusqlite::Connection;

use crate::Result;

const BLOCK: i64 = 64;

/// Numbers that are reserved and not given out yet.
pub(crate) type Block = Range<u64>;

/// Reserves the next block.
pub(crate) fn reserve(connection: &Connection) -> Result<Block> {
    let end: i64 = connection
        .prepare_cached(
            "INSERT INTO sequences (name, next) VALUES ('numbers', 1 + ?1)
             ON CONFLICT DO UPDATE SET next = next + ?1 RETURNING next",
        )?
        .query_row([BLOCK], |row| row.get(0))?;
    let end = end.unsigned_abs();
    Ok(end - BLOCK.unsigned_abs()..end)
}
