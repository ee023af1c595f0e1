"""The image-classification service: user lookups and a ResNet50 classifier, each a Ray Serve application."""
