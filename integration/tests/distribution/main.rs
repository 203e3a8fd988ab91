//! What only shows with real registries, proxies and readers of archives:
//! tokens that expire in the middle, requests through a proxy, lists of
//! referrers, exports, and the traffic as clients see it.

mod archives;
mod proxies;
mod referrers;
mod seat;
mod tokens;
mod traffic;
