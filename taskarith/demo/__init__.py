"""The main job on a real model: learn three texts, forget one, and see what happened to the others."""
