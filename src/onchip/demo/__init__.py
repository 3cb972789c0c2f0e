"""The bundled demonstration: scenes, a detector trained on them, and the story."""
