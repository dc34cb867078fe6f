//! Walking a list of the kernel step by step, believing nothing: each address is read with a helper that may fail, a link
//! counts only if the next one points back to it, and every list has a bound.

use luo_trace_common::fields::Field;

use crate::kernel::Address;

/// How many elements a list that nobody counts may have.
const UNCOUNTED: u64 = 1 << 16;
/// How far a list may go beyond the kernel's count of it.
const SLACK: u64 = 1 << 10;
/// A list that is being walked.
#[repr(C)]
pub struct List {
    /// Address of its head.
    pub head: u64,
    /// Address of the link that was visited last.
    link: u64,
    /// How many elements were visited.
    walked: u64,
    /// Address of the kernel's own count; 0: there is none.
    counter: u64,
    /// What it was when the list was begun.
    pub count: i64,
}

/// What comes next in a list.
pub enum Next {
    Element(Address),
    End,
    /// The list is not whole at this moment, or it never ends.
    Broken,
}

impl List {
    /// Begins a list; gives false where it cannot be read.
    #[inline(always)]
    pub fn begin(&mut self, head: Option<Address>, counter: Option<Address>) -> bool {
        let Some(head) = head else { return false };
        self.head = head.0;
        self.link = head.0;
        self.walked = 0;
        self.counter = counter.map_or(0, |counter| counter.0);
        self.count = self.count_now();
        true
    }

    /// Reads the kernel's count, an 8-byte number; -1: not known.
    #[inline(always)]
    fn count_now(&self) -> i64 {
        match self.counter {
            0 => -1,
            counter => Address(counter).read_here::<i64>().unwrap_or(-1),
        }
    }

    #[inline(always)]
    pub fn next(&mut self) -> Next {
        let Some(next) = Address(self.link).follow(Field::ListNext) else {
            return Next::Broken;
        };
        if next.read::<u64>(Field::ListPrev) != Some(self.link) {
            return Next::Broken;
        }
        if next.0 == self.head {
            return Next::End;
        }
        let bound = match self.count {
            0.. => self.count as u64 + SLACK,
            _ => UNCOUNTED,
        };
        if self.walked >= bound {
            return Next::Broken;
        }
        self.link = next.0;
        self.walked += 1;
        Next::Element(next)
    }

    /// Leaves the list at its end.
    #[inline(always)]
    pub fn end(&mut self) -> End {
        self.head = 0;
        let count = self.count_now();
        if count != self.count {
            End::Changed
        } else if count != -1 && count as u64 != self.walked {
            End::Differs
        } else {
            End::AsCounted
        }
    }
}

/// What the end of a list says.
pub enum End {
    /// The kernel counts as many, or none at all.
    AsCounted,
    /// The kernel's count changed on the way.
    Changed,
    /// The kernel counts another number, and did so before.
    Differs,
}
