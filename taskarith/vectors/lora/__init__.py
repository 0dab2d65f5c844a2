"""PEFT adapter folders, read and written as task vectors."""
