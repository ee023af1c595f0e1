"""What is asked of a measurement: plans and how YAML files are read and checked."""
