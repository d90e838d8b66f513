"""`{base}/SubscriptionTopic`: what may be subscribed to, in R4B and R5; R4 has no such resource (S-11)."""

from __future__ import annotations

from uuid import NAMESPACE_URL, uuid5

from aiohttp import web

from broker.api.asking import Asking, Here, asked_of
from broker.api.pages import CONTROLS, PAGING, page_of
from broker.api.parameters import Parameters
from broker.api.subscription_asking import check_release
from broker.api.subscription_search import topics_meant
from broker.api.subscription_service import SubscriptionService
from broker.core.fhir.header import Release
from broker.core.fhir.write import write
from broker.core.outcome import NotFound
from broker.core.subscription.capability import TOPIC_PARAMS
from broker.core.subscription.topic import Topic
from broker.core.subscription.topic_resource import write_topic


def topic_id(topic: Topic) -> str:
    """The same after every restart: topics come from the configuration, where they have no id."""
    return str(uuid5(NAMESPACE_URL, f"{topic.url}|{topic.version}"))


class TopicResources:
    def __init__(self, *, here: Here, service: SubscriptionService) -> None:
        self._here = here
        self._topics = {topic_id(topic): topic for topic in service.topics}

    async def read(self, request: web.Request) -> web.StreamResponse:
        asking = self._asking(request)
        id = request.match_info["id"]
        topic = self._topics.get(id)
        if topic is None:
            raise NotFound("no SubscriptionTopic has this id here", id="unknown-topic", expression="http.id")
        return asking.answer(write(write_topic(topic, release=asking.release, id=id), asking.format))

    async def search(self, request: web.Request) -> web.StreamResponse:
        pairs = await asked_of(request)
        asking = self._asking(request, pairs)
        names = [param.name for param in (*TOPIC_PARAMS, *PAGING)]
        asked = Parameters(pairs, known=(*names, *CONTROLS), strict=asking.is_strict)
        found = topics_meant(self._topics.items(), asked)
        bundle = page_of(
            asking, "SubscriptionTopic", asked, found,
            lambda one: write_topic(one[1], release=asking.release, id=one[0]),
        )  # fmt: skip
        return asking.answer(write(bundle, asking.format))

    def _asking(self, request: web.Request, pairs: list[tuple[str, str]] | None = None) -> Asking:
        asking = Asking(request, self._here, pairs or ())
        check_release(asking)
        if asking.release is Release.R4:
            base = self._here.base_url
            raise NotFound(
                f"R4 has no SubscriptionTopic: {asking.base}/metadata lists the topics, "
                f"{base}/R4B and {base}/R5 show them",
                id="no-topics-in-r4",
                expression="http.path",
            )
        return asking
