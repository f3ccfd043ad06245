"""Prompts: the query template and the registry of named tasks.

A query is embedded with an instruction, a document without one. In a *symmetric* task (similarity,
classification, clustering, duplicates, translation) both are the same sort of text and carry it.

Names and texts are those of the model's authors: the four prompts of the hub repository, and the
per-dataset instructions of microsoft/unilm, `e5/utils.py`. Which tasks are symmetric follows the
authors' evaluation: their scripts put the instruction on every text except in retrieval, where
passages have none. Knows nothing of tokens.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from string import Formatter

TEMPLATE = "Instruct: {task}\nQuery: {query}"
DEFAULT_TASK = "Given a web search query, retrieve relevant passages that answer the query"


@dataclass(frozen=True)
class Task:
    """An instruction, and whether documents carry it too."""

    instruction: str
    symmetric: bool


_HUB_SYMMETRIC = {
    "sts_query": "Retrieve semantically similar text.",
    "summarization_query": "Given a news summary, retrieve other semantically similar summaries",
    "bitext_query": "Retrieve parallel sentences.",
}

_CLASSIFICATION = {
    "AmazonCounterfactualClassification": (
        "Classify a given Amazon customer review text as either counterfactual or "
        "not-counterfactual"
    ),
    "AmazonPolarityClassification": "Classify Amazon reviews into positive or negative sentiment",
    "AmazonReviewsClassification": (
        "Classify the given Amazon review into its appropriate rating category"
    ),
    "Banking77Classification": "Given a online banking query, find the corresponding intents",
    "EmotionClassification": (
        "Classify the emotion expressed in the given Twitter message into one of the six "
        "emotions: anger, fear, joy, love, sadness, and surprise"
    ),
    "ImdbClassification": (
        "Classify the sentiment expressed in the given movie review text from the IMDB dataset"
    ),
    "MassiveIntentClassification": "Given a user utterance as query, find the user intents",
    "MassiveScenarioClassification": "Given a user utterance as query, find the user scenarios",
    "MTOPDomainClassification": (
        "Classify the intent domain of the given utterance in task-oriented conversation"
    ),
    "MTOPIntentClassification": (
        "Classify the intent of the given utterance in task-oriented conversation"
    ),
    "ToxicConversationsClassification": "Classify the given comments as either toxic or not toxic",
    "TweetSentimentExtractionClassification": (
        "Classify the sentiment of a given tweet as either positive, negative, or neutral"
    ),
    "TNews": "Classify the fine-grained category of the given news title",
    "IFlyTek": "Given an App description text, find the appropriate fine-grained category",
    "MultilingualSentiment": (
        "Classify sentiment of the customer review into positive, neutral, or negative"
    ),
    "JDReview": (
        "Classify the customer review for iPhone on e-commerce platform into positive or negative"
    ),
    "OnlineShopping": "Classify the customer review for online shopping into positive or negative",
    "Waimai": (
        "Classify the customer review from a food takeaway platform into positive or negative"
    ),
}

_CLUSTERING = {
    "ArxivClusteringP2P": (
        "Identify the main and secondary category of Arxiv papers based on the titles and abstracts"
    ),
    "ArxivClusteringS2S": (
        "Identify the main and secondary category of Arxiv papers based on the titles"
    ),
    "BiorxivClusteringP2P": (
        "Identify the main category of Biorxiv papers based on the titles and abstracts"
    ),
    "BiorxivClusteringS2S": "Identify the main category of Biorxiv papers based on the titles",
    "MedrxivClusteringP2P": (
        "Identify the main category of Medrxiv papers based on the titles and abstracts"
    ),
    "MedrxivClusteringS2S": "Identify the main category of Medrxiv papers based on the titles",
    "RedditClustering": "Identify the topic or theme of Reddit posts based on the titles",
    "RedditClusteringP2P": (
        "Identify the topic or theme of Reddit posts based on the titles and posts"
    ),
    "StackExchangeClustering": (
        "Identify the topic or theme of StackExchange posts based on the titles"
    ),
    "StackExchangeClusteringP2P": (
        "Identify the topic or theme of StackExchange posts based on the given paragraphs"
    ),
    "TwentyNewsgroupsClustering": "Identify the topic or theme of the given news articles",
    "CLSClusteringS2S": "Identify the main category of scholar papers based on the titles",
    "CLSClusteringP2P": (
        "Identify the main category of scholar papers based on the titles and abstracts"
    ),
    "ThuNewsClusteringS2S": (
        "Identify the topic or theme of the given news articles based on the titles"
    ),
    "ThuNewsClusteringP2P": (
        "Identify the topic or theme of the given news articles based on the titles and contents"
    ),
}

_RERANKING_AND_PAIRS = {
    "AskUbuntuDupQuestions": "Retrieve duplicate questions from AskUbuntu forum",
    "MindSmallReranking": "Retrieve relevant news articles based on user browsing history",
    "SciDocsRR": (
        "Given a title of a scientific paper, retrieve the titles of other relevant papers"
    ),
    "StackOverflowDupQuestions": "Retrieve duplicate questions from StackOverflow forum",
    "SprintDuplicateQuestions": "Retrieve duplicate questions from Sprint forum",
    "TwitterSemEval2015": "Retrieve tweets that are semantically similar to the given tweet",
    "TwitterURLCorpus": "Retrieve tweets that are semantically similar to the given tweet",
    "T2Reranking": "Given a Chinese search query, retrieve web passages that answer the question",
    "MMarcoReranking": (
        "Given a Chinese search query, retrieve web passages that answer the question"
    ),
    "CMedQAv1": (
        "Given a Chinese community medical question, retrieve replies that best answer the question"
    ),
    "CMedQAv2": (
        "Given a Chinese community medical question, retrieve replies that best answer the question"
    ),
    "Ocnli": "Retrieve semantically similar text.",
    "Cmnli": "Retrieve semantically similar text.",
}

_RETRIEVAL = {
    "ArguAna": "Given a claim, find documents that refute the claim",
    "ClimateFEVER": (
        "Given a claim about climate change, retrieve documents that support or refute the claim"
    ),
    "DBPedia": "Given a query, retrieve relevant entity descriptions from DBPedia",
    "FEVER": "Given a claim, retrieve documents that support or refute the claim",
    "FiQA2018": "Given a financial question, retrieve user replies that best answer the question",
    "HotpotQA": "Given a multi-hop question, retrieve documents that can help answer the question",
    "MSMARCO": "Given a web search query, retrieve relevant passages that answer the query",
    "NFCorpus": "Given a question, retrieve relevant documents that best answer the question",
    "NQ": "Given a question, retrieve Wikipedia passages that answer the question",
    "QuoraRetrieval": (
        "Given a question, retrieve questions that are semantically equivalent to the given "
        "question"
    ),
    "SCIDOCS": (
        "Given a scientific paper title, retrieve paper abstracts that are cited by the given paper"
    ),
    "SciFact": "Given a scientific claim, retrieve documents that support or refute the claim",
    "Touche2020": (
        "Given a question, retrieve detailed and persuasive arguments that answer the question"
    ),
    "TRECCOVID": "Given a query on COVID-19, retrieve documents that answer the query",
    "T2Retrieval": "Given a Chinese search query, retrieve web passages that answer the question",
    "MMarcoRetrieval": "Given a web search query, retrieve relevant passages that answer the query",
    "DuRetrieval": "Given a Chinese search query, retrieve web passages that answer the question",
    "CovidRetrieval": (
        "Given a question on COVID-19, retrieve news articles that answer the question"
    ),
    "CmedqaRetrieval": (
        "Given a Chinese community medical question, retrieve replies that best answer the question"
    ),
    "EcomRetrieval": (
        "Given a user query from an e-commerce website, retrieve description sentences of "
        "relevant products"
    ),
    "MedicalRetrieval": (
        "Given a medical question, retrieve user replies that best answer the question"
    ),
    "VideoRetrieval": "Given a video search query, retrieve the titles of relevant videos",
    "miracl": "Given a question, retrieve Wikipedia passages that answer the question",
    "CQADupstack": (
        "Given a question, retrieve detailed question descriptions from Stackexchange "
        "that are duplicates to the given question"
    ),
}

# BEIR's spellings, as the authors list them.
_ALIASES = {
    "trec-covid": "TRECCOVID",
    "climate-fever": "ClimateFEVER",
    "dbpedia-entity": "DBPedia",
    "webis-touche2020": "Touche2020",
    "fiqa": "FiQA2018",
    "quora": "QuoraRetrieval",
}

TASKS: Mapping[str, Task] = {
    "web_search_query": Task(DEFAULT_TASK, symmetric=False),
    **{
        name: Task(instruction, symmetric=True)
        for group in (_HUB_SYMMETRIC, _CLASSIFICATION, _CLUSTERING, _RERANKING_AND_PAIRS)
        for name, instruction in group.items()
    },
    **{name: Task(instruction, symmetric=False) for name, instruction in _RETRIEVAL.items()},
}

_BY_LOWER_NAME = {
    **{name.lower(): task for name, task in TASKS.items()},
    **{alias: TASKS[name] for alias, name in _ALIASES.items()},
}


def resolve_task(task: str) -> Task:
    """A named task of the registry (case is ignored), or `task` itself as the instruction.

    Example:
        >>> resolve_task("sts_query")
        Task(instruction='Retrieve semantically similar text.', symmetric=True)
        >>> resolve_task("Find the recipe that uses these leftovers")
        Task(instruction='Find the recipe that uses these leftovers', symmetric=False)
    """
    name = task.strip().lower()
    if name.startswith("cqadupstack") and len(name.split()) == 1:  # one task for all its forums
        name = "cqadupstack"
    return _BY_LOWER_NAME.get(name, Task(task, symmetric=False))


def query_prompt(task: str, query: str, *, template: str = TEMPLATE) -> str:
    r"""The text to tokenise for a query: with a prompt, unless the task is blank.

    Args:
        task: a registered name or an instruction.
        query: the text.
        template: the checkpoint's, with `{task}` and `{query}`; by default E5's own.

    Example:
        >>> query_prompt("web_search_query", "what is snow")[-41:]
        'that answer the query\nQuery: what is snow'
    """
    if not task.strip():
        return query
    return template.format(task=resolve_task(task).instruction, query=query)


def document_prompt(
    task: str, document: str, *, symmetric: bool = False, template: str = TEMPLATE
) -> str:
    r"""The text to tokenise for a document: without a prompt, unless the task is symmetric.

    Args:
        task: a registered name or an instruction, as for the queries.
        document: the text.
        symmetric: treat the task as symmetric; registered symmetric tasks always are.
        template: as for queries.

    Example:
        >>> document_prompt("web_search_query", "Snow is frozen water.")
        'Snow is frozen water.'
        >>> document_prompt("sts_query", "Snow falls.")
        'Instruct: Retrieve semantically similar text.\nQuery: Snow falls.'
    """
    if symmetric or resolve_task(task).symmetric:
        return query_prompt(task, document, template=template)
    return document


def is_template(template: str) -> bool:
    """Whether a text can be a template: `{query}` once, `{task}` at most once, no other field.

    Example:
        >>> is_template(TEMPLATE), is_template("query: {query}"), is_template("{0}")
        (True, True, False)
    """
    try:
        fields = [part[1:] for part in Formatter().parse(template) if part[1] is not None]
    except ValueError:  # a brace that is never closed
        return False
    query, task = ("query", "", None), ("task", "", None)
    return fields in ([query], [query, task], [task, query])
