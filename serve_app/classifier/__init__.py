"""The ResNet50 classifier: upload → decode → batch → engine → labels. Knows nothing of Ray."""
