//! LIST, page by page.
//!
//! A page goes on where the last one ended by the token that came with that one, not by `start-after`: a MinIO of 2026
//! ends a page that starts after a key within a "directory" early, and says that nothing follows. Lost keys of a LIST are
//! lost data in a prune, so elsewhere than at AWS a LIST that starts after any other key begins at its prefix.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use aws_sdk_s3::operation::list_objects_v2::ListObjectsV2Output;

use super::errors::sort;
use super::{S3, within};
use crate::store::{Key, Listed, Page, Result, StoreError, Verb};

/// Requests for one page of ours: pages may hold foreign objects only, or keys before the one to start after.
const REQUESTS_MAX: usize = 100_000;
/// Tokens kept: as many LISTs can be under way at once before one starts anew.
const TOKENS_MAX: usize = 256;
/// Longest token that is kept.
const TOKEN_BYTES_MAX: usize = 8 << 10;

/// How long a token is used. It may stand for the bucket as it was when its LIST began; a later LIST must not go by that.
const TOKEN_LIFE: Duration = Duration::from_secs(60);

/// How to go on with LISTs under way.
#[derive(Debug, Default)]
pub(super) struct Tokens(Mutex<VecDeque<Kept>>);

#[derive(Debug)]
struct Kept {
    prefix: String,
    last: Key,
    token: String,
    since: Instant,
}

impl Kept {
    fn is(&self, prefix: &str, last: &Key) -> bool {
        self.prefix == prefix && self.last == *last
    }
}

impl Tokens {
    /// It stays kept, so that a failed page can be asked for again.
    fn find(&self, prefix: &str, after: &Key) -> Option<String> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let found = kept.iter().find(|k| k.is(prefix, after) && k.since.elapsed() < TOKEN_LIFE);
        found.map(|k| k.token.clone())
    }

    fn keep(&self, prefix: &str, last: &Key, token: String) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.retain(|k| !k.is(prefix, last));
        if kept.len() == TOKENS_MAX {
            kept.pop_front();
        }
        kept.push_back(Kept { prefix: prefix.into(), last: last.clone(), token, since: Instant::now() });
    }
}

/// Where a page begins.
enum From {
    Start,
    After(String),
    Token(String),
}

impl S3 {
    /// The next keys of ours that start with `prefix` and are greater than `after`.
    pub(super) async fn page(&self, prefix: &str, after: Option<&Key>) -> Result<Page> {
        let wrong = |how: String| StoreError::Wrong { what: self.request(Verb::List, None).what(), how };
        let mut from = self.begin(prefix, after);
        // Of the whole LIST: a server that goes in circles is noticed.
        let mut last = match &from {
            From::Start => None,
            _ => after.cloned(),
        };
        for _ in 0..REQUESTS_MAX {
            let answer = self.ask(prefix, &from).await?;
            let mut objects = read_page(&answer, &self.root(), prefix, last.as_ref()).map_err(wrong)?;
            last = objects.last().map(|l| l.key.clone()).or(last);
            objects.retain(|l| after.is_none_or(|after| l.key > *after));
            if !answer.is_truncated.unwrap_or(false) {
                return Ok(Page { objects, more: false });
            }
            let token = answer.next_continuation_token.filter(|t| !t.is_empty() && t.len() <= TOKEN_BYTES_MAX);
            let token = token.ok_or_else(|| wrong("more is said to follow, but not how to get it".into()))?;
            if let Some(last) = objects.last() {
                self.tokens.keep(prefix, &last.key, token);
                return Ok(Page { objects, more: true });
            }
            from = From::Token(token);
        }
        let hint =
            format!("too many foreign objects lie under {:?}; give the repository a prefix of its own", self.root());
        Err(StoreError::Setup { what: self.request(Verb::List, None).what(), hint, source: "no key found".into() })
    }

    fn begin(&self, prefix: &str, after: Option<&Key>) -> From {
        let Some(after) = after else { return From::Start };
        match self.tokens.find(prefix, after) {
            Some(token) => From::Token(token),
            None if self.options.endpoint.is_none() => From::After(self.object(after)),
            None => From::Start,
        }
    }

    async fn ask(&self, prefix: &str, from: &From) -> Result<ListObjectsV2Output> {
        let request = self.request(Verb::List, None);
        let mut list =
            self.client.list_objects_v2().bucket(&self.options.bucket).prefix(format!("{}{prefix}", self.root()));
        list = match from {
            From::Start => list,
            From::After(key) => list.start_after(key),
            From::Token(token) => list.continuation_token(token),
        };
        within(request, 0, async { list.send().await.map_err(|e| sort(request, e)) }).await
    }
}

/// Our keys of a page, checked: each under `prefix`, greater than `last`, and in order. Foreign objects are left out.
fn read_page(
    page: &ListObjectsV2Output,
    root: &str,
    prefix: &str,
    last: Option<&Key>,
) -> std::result::Result<Vec<Listed>, String> {
    let mut objects: Vec<Listed> = Vec::with_capacity(page.contents().len());
    for object in page.contents() {
        let full = object.key().ok_or("an object without a key")?;
        let text = full.strip_prefix(root).filter(|t| t.starts_with(prefix)).ok_or("a key outside of the prefix")?;
        let Ok(key) = Key::new(text) else { continue };
        let size = object.size().and_then(|n| u64::try_from(n).ok()).ok_or("an object without a size")?;
        if objects.last().map(|l| &l.key).or(last).is_some_and(|last| *last >= key) {
            return Err(format!("{key} out of order"));
        }
        objects.push(Listed { key, size });
    }
    Ok(objects)
}
