//! Pages of long lists, and the fields of their items.

use std::collections::BTreeSet;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use prost_types::FieldMask;
use tonic::Status;

use super::errors::invalid;

const PAGE_DEFAULT: usize = 1_000;
/// Items of one page: with the longest names it stays below the limit of a message.
const PAGE_MAX: usize = 10_000;

/// Which part of a list a call is for.
pub struct Page {
    pub size: usize,
    /// The key of the last item of the page before; none: from the first item on.
    pub after: Option<String>,
}

impl Page {
    pub fn new(size: i32, token: &str) -> Result<Self, Status> {
        let size = match usize::try_from(size) {
            Ok(0) => PAGE_DEFAULT,
            Ok(size) => size.min(PAGE_MAX),
            Err(_) => {
                return Err(invalid("INVALID_PAGE_SIZE", format!("page_size is {size}: it must not be negative")));
            }
        };
        if token.is_empty() {
            return Ok(Self { size, after: None });
        }
        let key = BASE64.decode(token).ok().and_then(|bytes| String::from_utf8(bytes).ok());
        let unknown = || invalid("INVALID_PAGE_TOKEN", "page_token is none that a page before ended with");
        Ok(Self { size, after: Some(key.ok_or_else(unknown)?) })
    }
}

/// The token of the page after the item with this key.
pub fn token(key: &str) -> String {
    BASE64.encode(key)
}

/// The first page of an ordered list, and the token of the next one; empty if there is none.
pub fn page<T>(page: &Page, items: impl Iterator<Item = T>, key: impl Fn(&T) -> String) -> (Vec<T>, String) {
    let mut items: Vec<T> = items.take(page.size + 1).collect();
    if items.len() <= page.size {
        return (items, String::new());
    }
    items.truncate(page.size);
    let next = items.last().map(|item| token(&key(item))).unwrap_or_default();
    (items, next)
}

/// The fields that a caller wants of each item.
pub struct Mask(Option<BTreeSet<String>>);

impl Mask {
    /// `known` are the fields of an item. An empty mask stands for all of them.
    pub fn new(mask: Option<FieldMask>, known: &[&str]) -> Result<Self, Status> {
        let Some(paths) = mask.map(|mask| mask.paths).filter(|paths| !paths.is_empty()) else { return Ok(Self(None)) };
        if let Some(unknown) = paths.iter().find(|path| !known.contains(&path.as_str())) {
            let text = format!("read_mask names {unknown}; accepted: {}", known.join(", "));
            return Err(invalid("INVALID_READ_MASK", text));
        }
        Ok(Self(Some(paths.into_iter().collect())))
    }

    pub fn keeps(&self, field: &str) -> bool {
        self.0.as_ref().is_none_or(|fields| fields.contains(field))
    }
}

/// An item of a list of which callers can want some fields.
pub trait Masked {
    const FIELDS: &'static [&'static str];

    fn keep(&mut self, mask: &Mask);
}

macro_rules! masked {
    ($type:ty: $($field:ident),+) => {
        impl $crate::service::admin::paging::Masked for $type {
            const FIELDS: &'static [&'static str] = &[$(stringify!($field)),+];

            fn keep(&mut self, mask: &$crate::service::admin::paging::Mask) {
                $(
                    if !mask.keeps(stringify!($field)) {
                        self.$field = Default::default();
                    }
                )+
            }
        }
    };
}
pub(super) use masked;

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::*;

    #[test]
    fn pages_follow_each_other() {
        let list = ["a", "b", "c", "d", "e"];
        let mut seen = Vec::new();
        let mut next = String::new();
        for pages in 1.. {
            let asked = Page::new(2, &next).expect("a page");
            let rest = list.iter().skip_while(|item| asked.after.as_deref().is_some_and(|after| **item <= after));
            let (items, token) = page(&asked, rest, |item| (**item).to_owned());
            seen.extend(items.into_iter().copied());
            next = token;
            if next.is_empty() {
                assert_eq!(pages, 3);
                break;
            }
        }
        assert_eq!(seen, list);
        assert_eq!(Page::new(0, "").map(|page| page.size).ok(), Some(PAGE_DEFAULT));
        assert_eq!(Page::new(i32::MAX, "").map(|page| page.size).ok(), Some(PAGE_MAX));
        for (size, token) in [(-1, ""), (1, "?")] {
            assert!(Page::new(size, token).is_err_and(|status| status.code() == Code::InvalidArgument));
        }
    }

    #[test]
    fn masks_name_known_fields() {
        let mask = |paths: &[&str]| {
            let paths = paths.iter().map(|path| (*path).to_owned()).collect();
            Mask::new(Some(FieldMask { paths }), &["a", "b"])
        };
        let only_a = mask(&["a"]).expect("a mask");
        assert!(only_a.keeps("a") && !only_a.keeps("b"));
        assert!(mask(&[]).is_ok_and(|mask| mask.keeps("b")));
        assert!(mask(&["c"]).is_err_and(|status| status.message().contains("a, b")));
    }
}
