"""What the chat routes work with: opened by the app's lifespan, the same for every request."""

from dataclasses import dataclass

from proxy.access.callers import Door
from proxy.catalog import Catalog
from proxy.chat.dialects import Dialects
from proxy.narrative import Jobs, NarrativeClient
from proxy.settings import Settings
from proxy.translate.plan import PlanRules


@dataclass(frozen=True, slots=True)
class ChatServices:
    """Everything a chat request needs on its way.

    Attributes:
        narrative: the client with the proxy's own token; callers with tokens of their own get a copy of it.
        dialects: what has been learned of models while serving.
    """

    settings: Settings
    catalog: Catalog
    rules: PlanRules
    door: Door
    narrative: NarrativeClient
    jobs: Jobs
    dialects: Dialects
