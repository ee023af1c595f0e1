"""`evaluate`: how often a service's answers are right, or how often two services agree.

`labels` says where the true classes come from, `classes` which index a name means; `accuracy` and `agreement` are the
arithmetic, `accuracy_report` and `agreement_report` what is shown of it; `report` prints, and `page` writes HTML.
"""
