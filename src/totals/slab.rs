//! A table of values by number. When a value is removed, its number can be used for another value.

/// A growing table that gives each value a number. A value keeps its number until it is removed.
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
    /// Returns the number of values.
    pub fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Whether this number is in use.
    pub fn has(&self, id: u32) -> bool {
        self.slots.get(id as usize).is_some_and(Option::is_some)
    }

    /// Adds `value`, and returns the number of the value.
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

    /// Returns the value with this number. [`Slab::insert`] must have returned the number, and
    /// [`Slab::retain`] must not have removed the value since.
    pub fn get(&self, id: u32) -> &T {
        self.slots[id as usize].as_ref().expect("the number of a value that was removed is not used")
    }

    /// Returns a mutable reference to the value with this number.
    pub fn get_mut(&mut self, id: u32) -> &mut T {
        self.slots[id as usize].as_mut().expect("the number of a value that was removed is not used")
    }

    /// Returns an iterator over mutable references to all values.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.slots.iter_mut().flatten()
    }

    /// Returns all values.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.slots.iter().flatten()
    }

    /// Returns the numbers of all values, in ascending order.
    pub fn ids(&self) -> impl Iterator<Item = u32> {
        self.slots.iter().enumerate().filter(|(_, slot)| slot.is_some()).map(|(id, _)| id as u32)
    }

    /// Removes the values for which `keep` returns false. Frees the memory of unused slots at the end of the
    /// table.
    pub fn retain(&mut self, mut keep: impl FnMut(u32, &T) -> bool) {
        for (id, slot) in (0..).zip(&mut self.slots) {
            slot.take_if(|value| !keep(id, value));
        }
        let used = self.slots.iter().rposition(Option::is_some).map_or(0, |last| last + 1);
        self.slots.truncate(used);
        self.slots.shrink_to(2 * used);
        self.free.clear();
        // `insert` takes the last number in `free`, so the lowest number comes last. Low slots are then
        // reused first, so that the slots at the end of the table stay unused and can be freed.
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
