"""The numbers of the field as plain functions of arrays, a module for each family; nothing here reads files."""
