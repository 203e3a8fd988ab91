//! What only shows with real registries, proxies and readers of archives:
//! tokens that expire in the middle, requests through a proxy, lists of
//! referrers, exports, platforms, and the traffic as clients see it.

mod archives;
mod artifacts;
mod chunked;
mod imports;
mod platforms;
mod proxies;
mod referrers;
mod seat;
mod tiny;
mod tokens;
mod traffic;
