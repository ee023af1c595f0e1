"""The page in which a person tries the classifier."""
