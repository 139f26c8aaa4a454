"""What must be right before a plan begins, so that nothing fails for it at the end."""

from pathlib import Path

from fedmore.coordinator.config.schema import FederationConfig
from fedmore.experts.errors import BaseError, ConfigError
from fedmore.experts.routers.spec import LEARNED, ROUTERS, is_learned
from fedmore.strategies.compression import policy
from fedmore.strategies.stages.base import TrainingStage
from fedmore.strategies.stages.embedding import EmbeddingStage
from fedmore.strategies.stages.expert import RULES, FactorStage
from fedmore.strategies.stages.kinds import STAGES, expert_kinds, kind_of, load
from fedmore.strategies.tasks.schema import TaskSchema


def check_plan(config: FederationConfig) -> None:
    """Raise `ConfigError` or `BaseError`, naming the key, for what the plan needs and lacks."""
    if config.federation.app:
        return
    check_base(config)
    check_plugins(config)
    for name, path in config.gate.texts.items():
        check_text(f"gate.texts.{name}", path)
    for name, path in config.evaluation.texts.items():
        check_text(f"evaluation.texts.{name}", path)
    check_stages(config)
    if config.router.embeds:
        check_domain_router(config)


def check_plugins(config: FederationConfig) -> None:
    """Every plugin that the configuration names can be imported and is what its table holds."""
    if ROUTERS.added([config.router.kind]):
        from fedmore.experts.routers.serialization import router_class

        router_class(config.router.kind)
    for stage in config.stages:
        if STAGES.added([stage.kind]):
            row = kind_of(stage)
            load(row.runner, object)
            load(row.task, TaskSchema)
        if not isinstance(stage, TrainingStage):
            continue
        texts = (stage.update_codec, stage.download_codec)
        if tags := [plugin.name for text in texts for plugin in policy.plugins_of(text)]:
            from fedmore.strategies.compression.codec import codec_of

            for tag in tags:
                codec_of(tag)
        if isinstance(stage, FactorStage) and RULES.added([stage.aggregation]):
            from fedmore.strategies.expert_stage.aggregation import rule_of

            rule_of(stage)


def check_base(config: FederationConfig) -> None:
    """A base that is a path must be there."""
    model = config.base.model
    if Path(model).is_absolute() and not Path(model).exists():
        raise BaseError(f"base.model: {model} is not there; put it back or change the path")


def check_domain_router(config: FederationConfig) -> None:
    """The domain router needs every owner's embedding and public text to tell them from."""
    if not any(isinstance(stage, EmbeddingStage) for stage in config.stages):
        raise ConfigError(
            'router: domain embeddings (as kind or start) need a stage of kind "router"; add one, '
            'or take router.kind = "uniform"'
        )
    if not config.router.public_text:
        raise ConfigError(
            "router.public_text: name a file of public text (.txt or .jsonl) that the router tells "
            'the domains from, or take router.kind = "uniform"'
        )
    check_text("router.public_text", config.router.public_text)


def check_stages(config: FederationConfig) -> None:
    """Some stage trains an expert, and a learned router is trained in one place."""
    kinds, section = [stage.kind for stage in config.stages], config.router
    if not any(isinstance(stage, FactorStage) for stage in config.stages):
        raise ConfigError(f"stages: none trains an expert; add one of {', '.join(expert_kinds())}")
    if section.trained_at == "clients":
        check_at_clients(config)
    elif "routing" in kinds:
        raise ConfigError(
            f'stages[{kinds.index("routing")}].kind: a stage of kind "routing" trains the '
            'router at the clients; set router.trained_at = "clients" or take the stage out'
        )
    elif is_learned(section.kind):
        check_at_coordinator(config)


def check_at_clients(config: FederationConfig) -> None:
    """A router that clients train needs its stage, after all that it is made from."""
    kinds, section = [stage.kind for stage in config.stages], config.router
    if not is_learned(section.kind):
        raise ConfigError(
            f"router.trained_at: {section.kind} is set, not trained; take one of "
            f"{', '.join(LEARNED)} as router.kind"
        )
    if "routing" not in kinds:
        raise ConfigError(
            'router.trained_at: "clients" needs a stage of kind "routing" after the experts\''
        )
    place = kinds.index("routing")
    if any(isinstance(stage, FactorStage) for stage in config.stages[place:]):
        raise ConfigError(
            f'stages[{place}].kind: "routing" comes after every stage that '
            "trains experts or adapters; move it to the end"
        )
    if section.embeds and "router" in kinds[place:]:
        raise ConfigError(
            f'stages[{place}].kind: "routing" starts from what the stage "router" collects; '
            "move it to the end"
        )
    check_public_text(config)
    if section.experts_learning_rate:
        raise ConfigError(
            "router.experts_learning_rate: clients train the router alone; set it to 0, or "
            'router.trained_at = "coordinator"'
        )


def check_at_coordinator(config: FederationConfig) -> None:
    """A router that the coordinator trains needs text like the domains', and public text."""
    if not config.router.proxy_texts:
        raise ConfigError(
            "router.proxy_texts: name public text that is like each domain's, to train the router "
            'on, or set router.trained_at = "clients"'
        )
    for name, path in config.router.proxy_texts.items():
        check_text(f"router.proxy_texts.{name}", path)
    check_public_text(config)


def check_public_text(config: FederationConfig) -> None:
    """A learned router looks at hidden states less what they are on public text."""
    if not config.router.public_text:
        raise ConfigError(
            "router.public_text: name public text; a router's features are centred by it"
        )
    check_text("router.public_text", config.router.public_text)


def check_text(key: str, path: str) -> None:
    """A text that the configuration names must be there."""
    if not Path(path).exists():
        raise ConfigError(f"{key}: {path} is not there")
