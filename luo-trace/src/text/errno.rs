//! Errno names, so that a reader sees `EEXIST` and not `-17`.

use std::borrow::Cow;

/// `"ok"`, the errno's name (`"EEXIST"`), or the number where this table has no name for it.
pub fn result(result: i64) -> Cow<'static, str> {
    if result >= 0 {
        return Cow::Borrowed("ok");
    }
    match name(result.unsigned_abs()) {
        Some(name) => Cow::Borrowed(name),
        None => Cow::Owned(format!("errno {}", result.unsigned_abs())),
    }
}

/// The name of an errno that LUO, KHO or a handler is known or likely to return. Numbers are Linux's generic ones.
fn name(errno: u64) -> Option<&'static str> {
    Some(match errno {
        1 => "EPERM",
        2 => "ENOENT",
        4 => "EINTR",
        5 => "EIO",
        6 => "ENXIO",
        7 => "E2BIG",
        9 => "EBADF",
        11 => "EAGAIN",
        12 => "ENOMEM",
        13 => "EACCES",
        14 => "EFAULT",
        16 => "EBUSY",
        17 => "EEXIST",
        19 => "ENODEV",
        20 => "ENOTDIR",
        21 => "EISDIR",
        22 => "EINVAL",
        23 => "ENFILE",
        24 => "EMFILE",
        25 => "ENOTTY",
        26 => "ETXTBSY",
        27 => "EFBIG",
        28 => "ENOSPC",
        32 => "EPIPE",
        34 => "ERANGE",
        36 => "ENAMETOOLONG",
        38 => "ENOSYS",
        61 => "ENODATA",
        62 => "ETIME",
        71 => "EPROTO",
        74 => "EBADMSG",
        75 => "EOVERFLOW",
        84 => "EILSEQ",
        95 => "EOPNOTSUPP",
        110 => "ETIMEDOUT",
        116 => "ESTALE",
        125 => "ECANCELED",
        512 => "ERESTARTSYS",
        515 => "ENOIOCTLCMD",
        524 => "ENOTSUPP",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    #[test]
    fn results_read_as_names() {
        assert_eq!(super::result(0), "ok");
        assert_eq!(super::result(-17), "EEXIST");
        assert_eq!(super::result(-4000), "errno 4000");
    }
}
