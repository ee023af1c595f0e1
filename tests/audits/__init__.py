"""Reports to audit: one that was published, and ones that are made so that every figure of them is right."""
