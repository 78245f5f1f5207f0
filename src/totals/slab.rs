//! Values by number: a number belongs to one value until that is removed, then to another.

/// A table that grows. Numbers do not change while a value lives, and are reused afterwards.
#[derive(Debug)]
pub struct Slab<T> {
    slots: Vec<Option<T>>,
    free: Vec<u32>,
}

impl<T> Default for Slab<T> {
    fn default() -> Self {
        Self { slots: Vec::new(), free: Vec::new() }
    }
}

impl<T> Slab<T> {
    /// The number of values.
    pub fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Whether this number is in use.
    pub fn has(&self, id: u32) -> bool {
        self.slots.get(id as usize).is_some_and(Option::is_some)
    }

    /// Keeps `value` and returns its number.
    pub fn insert(&mut self, value: T) -> u32 {
        match self.free.pop() {
            Some(id) => {
                self.slots[id as usize] = Some(value);
                id
            }
            None => {
                self.slots.push(Some(value));
                (self.slots.len() - 1) as u32
            }
        }
    }

    /// The value with this number. It must come from [`Slab::insert`], and [`Slab::retain`] must not have
    /// removed it.
    pub fn get(&self, id: u32) -> &T {
        self.slots[id as usize].as_ref().expect("the number of a value that was removed is not used")
    }

    /// The value with this number, to change it.
    pub fn get_mut(&mut self, id: u32) -> &mut T {
        self.slots[id as usize].as_mut().expect("the number of a value that was removed is not used")
    }

    /// Every value, to change it.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.slots.iter_mut().flatten()
    }

    /// Every value.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.slots.iter().flatten()
    }

    /// Every number in use, ascending.
    pub fn ids(&self) -> impl Iterator<Item = u32> {
        self.slots.iter().enumerate().filter(|(_, slot)| slot.is_some()).map(|(id, _)| id as u32)
    }

    /// Removes the values for which `keep` returns false, and frees memory at the end that nothing uses any
    /// more.
    pub fn retain(&mut self, mut keep: impl FnMut(u32, &T) -> bool) {
        for (id, slot) in (0..).zip(&mut self.slots) {
            slot.take_if(|value| !keep(id, value));
        }
        let used = self.slots.iter().rposition(Option::is_some).map_or(0, |last| last + 1);
        self.slots.truncate(used);
        self.slots.shrink_to(2 * used);
        self.free.clear();
        // The lowest number is used first, so that the end becomes empty and its memory can be freed.
        let ids = self.slots.iter().enumerate().rev();
        self.free.extend(ids.filter(|(_, slot)| slot.is_none()).map(|(id, _)| id as u32));
        self.free.shrink_to(2 * self.free.len());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_stable_and_reused() {
        let mut slots = Slab::default();
        let ids: Vec<u32> = ["a", "b", "c", "d"].map(|value| slots.insert(value)).into();
        slots.retain(|id, value| id != ids[1] && *value != "d");
        assert_eq!(slots.len(), 2);
        assert_eq!((*slots.get(ids[0]), *slots.get(ids[2])), ("a", "c"));
        assert_eq!(slots.insert("e"), ids[1]);
        assert_eq!(slots.insert("f"), ids[3]);
        assert_eq!(slots.ids().collect::<Vec<_>>(), [0, 1, 2, 3]);
        assert_eq!(slots.iter().copied().collect::<String>(), "aecf");
        slots.retain(|_, _| false);
        assert_eq!(slots.len(), 0);
        assert_eq!(slots.insert("g"), 0);
    }
}
