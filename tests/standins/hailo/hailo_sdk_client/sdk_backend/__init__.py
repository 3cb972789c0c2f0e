"""A place that plays the one of this name in Hailo's compiler."""
