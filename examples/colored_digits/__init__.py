"""Red and green digits: how two tasks relate decides what adding and negating a task vector does."""
