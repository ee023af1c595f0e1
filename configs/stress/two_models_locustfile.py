"""The shipped workload with pictures for two models: one for POST /model/predict, one for POST /cats/predict."""

from locust import tag, task

from loadtest import locustfile


class TwoModelsVisitor(locustfile.Visitor):
    """One person: two lookups for each picture to either model, in random order."""

    @tag("cats")
    @task(1)
    def predict_cats(self) -> None:
        """Send a picture to the second model."""
        self.send_picture("/cats/predict")
