//! What leads to what, as one query tells it, and what no root leads to.
//!
//! The whole graph is held as numbers: 8 bytes for a reference, 24 for a
//! thing, so that 100,000 of each are a few megabytes for as long as it is
//! looked at.

use std::collections::{HashMap, HashSet};

use davit_types::Namespace;
use rusqlite::{Connection, params};

use crate::Result;

/// Things, and the references between those that exist.
#[derive(Debug, Default)]
pub(super) struct Graph {
    nodes: Vec<Node>,
    /// In the order of where they begin.
    edges: Vec<Edge>,
}

#[derive(Clone, Copy, Debug)]
struct Node {
    /// Its row in `objects`.
    id: i64,
    /// Until when it holds itself; `None` where it does not.
    until: Option<i64>,
    is_ingest: bool,
}

#[derive(Clone, Copy, Debug)]
struct Edge {
    from: u32,
    to: u32,
    reach: Reach,
}

/// How far a reference reaches; see `schema`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reach {
    /// By nature: followed wherever its source was reached.
    Own,
    /// By a label or a lease: not followed from what a flat lease led to.
    Far,
    /// By a flat lease: leads to nothing but what is its target's by nature.
    Flat,
}

/// How a thing was reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mark {
    Not,
    Flat,
    Full,
}

/// The way from a root down to a thing: rows of `objects`, each holding the
/// next.
pub(super) type Chain = Vec<i64>;

/// All references whose target exists. The order of the joins is given
/// (`CROSS`): the planner knows nothing of how many rows there are.
const EDGES: &str = "
    SELECT r.source, t.id, r.via
    FROM refs r
    CROSS JOIN objects s ON s.id = r.source
    CROSS JOIN objects t ON t.namespace = s.namespace AND t.kind = r.kind AND t.key = r.key
    WHERE ?1 IS NULL OR s.namespace = ?1";

const NODES: &str = "
    SELECT id, root, expires, kind = 'ingest' FROM objects
    WHERE ?1 IS NULL OR namespace = ?1 ORDER BY id";

/// References to what does not exist, and what is attached to that by a back
/// reference: it is held as if the thing in between were there.
const ACROSS: &str = "
    SELECT r.source, b.source
    FROM refs r
    CROSS JOIN refs b INDEXED BY refs_back
        ON b.kind = r.kind AND b.key = r.key AND b.via = 'back'
    CROSS JOIN objects rs ON rs.id = r.source
    CROSS JOIN objects bs ON bs.id = b.source AND bs.namespace = rs.namespace
    WHERE r.via NOT IN ('back', 'flat') AND (?1 IS NULL OR rs.namespace = ?1)
        AND NOT EXISTS (SELECT 1 FROM objects t
            WHERE t.namespace = rs.namespace AND t.kind = r.kind AND t.key = r.key)";

const HAS_BACK_REFERENCES: &str =
    "SELECT EXISTS (SELECT 1 FROM refs INDEXED BY refs_back WHERE via = 'back')";

impl Graph {
    /// Reads it, of one namespace or of all. References never leave theirs.
    pub(super) fn load(connection: &Connection, of: Option<&Namespace>) -> Result<Self> {
        let of = of.map(Namespace::as_str);
        let mut statement = connection.prepare_cached(NODES)?;
        let nodes = statement.query_map(params![of], |row| {
            let holds_itself: bool = row.get(1)?;
            let expires: Option<i64> = row.get(2)?;
            let until = holds_itself.then(|| expires.unwrap_or(i64::MAX));
            Ok(Node { id: row.get(0)?, until, is_ingest: row.get(3)? })
        })?;
        let mut graph = Self { nodes: nodes.collect::<rusqlite::Result<_>>()?, edges: Vec::new() };
        let mut statement = connection.prepare_cached(EDGES)?;
        let mut rows = statement.query(params![of])?;
        while let Some(row) = rows.next()? {
            let (source, target) = (graph.find(row.get(0)?), graph.find(row.get(1)?));
            let (Some(source), Some(target)) = (source, target) else { continue };
            let via = row.get_ref(2)?.as_str().unwrap_or_default();
            graph.edges.push(graph.edge(source, target, via));
        }
        // Nearly nobody has any.
        if connection.prepare_cached(HAS_BACK_REFERENCES)?.query_row([], |row| row.get(0))? {
            graph.load_across(connection, of)?;
        }
        graph.edges.sort_unstable_by_key(|edge| edge.from);
        Ok(graph)
    }

    /// Has those of `rows` that are in it hold themselves for ever.
    pub(super) fn keep(&mut self, rows: &[i64]) {
        for row in rows {
            if let Some(node) = self.find(*row) {
                self.nodes[node as usize].until = Some(i64::MAX);
            }
        }
    }

    fn load_across(&mut self, connection: &Connection, of: Option<&str>) -> Result<()> {
        let mut statement = connection.prepare_cached(ACROSS)?;
        let mut rows = statement.query(params![of])?;
        while let Some(row) = rows.next()? {
            let (from, to) = (self.find(row.get(0)?), self.find(row.get(1)?));
            let (Some(from), Some(to)) = (from, to) else { continue };
            self.edges.push(Edge { from, to, reach: Reach::Far });
        }
        Ok(())
    }

    fn edge(&self, source: u32, target: u32, via: &str) -> Edge {
        let (from, to, reach) = match via {
            "self" => (source, target, Reach::Own),
            "back" => (target, source, Reach::Far),
            // containerd knows ingests by one type only, whatever the lease.
            "flat" if !self.nodes[target as usize].is_ingest => (source, target, Reach::Flat),
            _ => (source, target, Reach::Far),
        };
        Edge { from, to, reach }
    }

    /// The number of a row of `objects`.
    fn find(&self, id: i64) -> Option<u32> {
        let at = self.nodes.binary_search_by_key(&id, |node| node.id).ok()?;
        u32::try_from(at).ok()
    }

    fn edges_from(&self, node: u32) -> &[Edge] {
        let start = self.edges.partition_point(|edge| edge.from < node);
        let length = self.edges[start..].partition_point(|edge| edge.from == node);
        &self.edges[start..start + length]
    }

    fn roots(&self, now: i64) -> impl Iterator<Item = u32> + '_ {
        let holds = move |node: &Node| node.until.is_some_and(|until| until >= now);
        (0..).zip(&self.nodes).filter(move |(_, node)| holds(node)).map(|(number, _)| number)
    }

    fn mark(&self, now: i64) -> Vec<Mark> {
        let mut marks = vec![Mark::Not; self.nodes.len()];
        let mut waiting: Vec<(u32, Mark)> =
            self.roots(now).map(|root| (root, Mark::Full)).collect();
        while let Some((node, mark)) = waiting.pop() {
            let known = &mut marks[node as usize];
            if *known == Mark::Full || *known == mark {
                continue;
            }
            *known = mark;
            let followed = self.edges_from(node).iter().filter_map(|edge| {
                let reached = match (edge.reach, mark) {
                    (Reach::Own, mark) => mark,
                    (Reach::Far, Mark::Full) => Mark::Full,
                    (Reach::Flat, Mark::Full) => Mark::Flat,
                    _ => return None,
                };
                Some((edge.to, reached))
            });
            waiting.extend(followed);
        }
        marks
    }

    /// The rows that no root leads to at the time `now`, in an order in which
    /// they can go one by one: a thing before what it leads to, so that what
    /// stays for now is never without what it names, and a snapshot before
    /// its parent. Where things lead to each other in a circle, only the
    /// latter is sure.
    pub(super) fn garbage(&self, now: i64) -> Vec<i64> {
        let marks = self.mark(now);
        let mut left: Vec<bool> = marks.iter().map(|mark| *mark == Mark::Not).collect();
        let mut order = Vec::new();
        self.take_in_order(&mut left, &mut order, |_| true);
        self.take_in_order(&mut left, &mut order, |edge| edge.reach == Reach::Own);
        order
    }

    /// Moves from `left` to `order` what none of those left leads to by an
    /// edge that `counts`, until there is no such thing.
    fn take_in_order(
        &self,
        left: &mut [bool],
        order: &mut Vec<i64>,
        counts: impl Fn(&Edge) -> bool,
    ) {
        let among = |left: &[bool], edge: &Edge| {
            edge.from != edge.to && left[edge.from as usize] && left[edge.to as usize]
        };
        let mut holders = vec![0_u32; left.len()];
        for edge in self.edges.iter().filter(|edge| counts(edge) && among(left, edge)) {
            holders[edge.to as usize] += 1;
        }
        let free = |&node: &u32| left[node as usize] && holders[node as usize] == 0;
        let mut ready: Vec<u32> = (0..).take(left.len()).filter(free).collect();
        while let Some(node) = ready.pop() {
            for edge in self.edges_from(node).iter().filter(|edge| counts(edge)) {
                if !among(left, edge) {
                    continue;
                }
                let count = &mut holders[edge.to as usize];
                *count -= 1;
                if *count == 0 {
                    ready.push(edge.to);
                }
            }
            left[node as usize] = false;
            order.push(self.nodes[node as usize].id);
        }
    }

    /// The shortest way to the row `id` from each root that leads to it at
    /// the time `now`, the shortest first.
    pub(super) fn chains(&self, id: i64, now: i64) -> Vec<Chain> {
        let Some(target) = self.find(id) else { return Vec::new() };
        let steps = self.steps_back(target);
        let holds = |&(node, flat): &(u32, bool)| {
            !flat && self.nodes[node as usize].until.is_some_and(|until| until >= now)
        };
        let follow = |root: (u32, bool)| {
            let chain = std::iter::successors(Some(root), |at| steps.next.get(at).copied());
            chain.map(|(node, _)| self.nodes[node as usize].id).collect()
        };
        steps.order.iter().copied().filter(holds).map(follow).collect()
    }

    /// Walks against the references, from `target` on, breadth first.
    fn steps_back(&self, target: u32) -> Steps {
        let mut edges = self.edges.clone();
        edges.sort_unstable_by_key(|edge| edge.to);
        let into = |node: u32| {
            let start = edges.partition_point(|edge| edge.to < node);
            edges[start..].iter().take_while(move |edge| edge.to == node)
        };
        let mut steps = Steps { order: vec![(target, false), (target, true)], ..Steps::default() };
        let mut seen: HashSet<(u32, bool)> = steps.order.iter().copied().collect();
        let mut done = 0;
        while let Some(&(node, flat)) = steps.order.get(done) {
            done += 1;
            for edge in into(node) {
                let from = match (edge.reach, flat) {
                    (Reach::Own, flat) => (edge.from, flat),
                    (Reach::Far, false) | (Reach::Flat, true) => (edge.from, false),
                    _ => continue,
                };
                if seen.insert(from) {
                    steps.next.insert(from, (node, flat));
                    steps.order.push(from);
                }
            }
        }
        steps
    }
}

/// What leads to a thing: things, and whether what was reached over a flat
/// lease is meant.
#[derive(Debug, Default)]
struct Steps {
    /// Nearest first.
    order: Vec<(u32, bool)>,
    /// The step that follows on the shortest way.
    next: HashMap<(u32, bool), (u32, bool)>,
}
