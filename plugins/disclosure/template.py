"""The fields of the European Commission's template for the public summary of training content.

Source: European Commission, "Explanatory Notice and Template for the Public Summary of Training Content for
general-purpose AI models required by Article 53(1)(d) of Regulation (EU) 2024/1689", C(2025) 5235 of 24 July 2025, issued
again as C(2025) 8311 of 5 December 2025:
https://digital-strategy.ec.europa.eu/en/library/explanatory-notice-and-template-public-summary-training-content-general-purpose-ai-models

Sections and labels were compared with these texts, since the document itself could not be read in full:

- the fields by section: https://github.com/CycloneDX/guides/blob/main/ML-BOM/en/0x80-Appendix-eu-ai-act-mappings.md
- filled templates, of Apertus (Swiss AI) and SmolLM3 (Hugging Face), and beginnings of eight in the archive of
  https://github.com/AIAccountabilityLab/gpai-training-transparency
- a data model of the fields: https://github.com/ShaswataTripathy/corpuscard/blob/main/corpuscard/schema.py

docs/rights/disclosure.md lists what was compared with which of them.
"""

from dataclasses import dataclass

TITLE = "Public summary of training content"
LAW = (
    "Article 53(1)(d) of Regulation (EU) 2024/1689 (AI Act), template of the European Commission of 24 July 2025 "
    "(C(2025) 5235, issued again as C(2025) 8311)"
)

PROVIDER = "the provider"
ENGINEER = "whoever chose the sources"
COUNSEL = "the provider's legal counsel"

SECTIONS = (
    ("", "Version of this summary"),
    ("1", "General information"),
    ("1.1", "Provider identification"),
    ("1.2", "Model identification"),
    ("1.3", "Modalities, overall training data size and other characteristics"),
    ("2", "List of data sources"),
    ("2.1", "Publicly available datasets"),
    ("2.2", "Private non-publicly available datasets obtained from third parties"),
    ("2.2.1", "Datasets commercially licensed by rightsholders or their representatives"),
    ("2.2.2", "Private datasets obtained from other third parties"),
    ("2.3", "Data crawled and scraped from online sources"),
    ("2.4", "User data"),
    ("2.5", "Synthetic data"),
    ("2.6", "Other sources of data"),
    ("3", "Data processing aspects"),
    ("3.1", "Respect of reservation of rights from text and data mining exception or limitation"),
    ("3.2", "Removal of illegal content"),
    ("3.3", "Other information"),
)
"""Number and title of each section, in the order of the template."""


@dataclass(frozen=True)
class TemplateField:
    """A field of the template."""

    name: str
    """Key in a file of facts and in JSON."""
    section: str
    label: str
    who: str = PROVIDER
    """Who fills the field where the lineage has no answer."""
    is_optional: bool = False
    is_question: bool = False
    """Whether the answer is yes or no."""
    only_if: tuple[str, ...] = ()
    """Questions of which one must be answered with yes; otherwise the field does not apply."""


def _comments(name: str, section: str, *only_if: str) -> TemplateField:
    return TemplateField(name, section, "Additional comments", is_optional=True, only_if=only_if)


def _modalities(
    name: str, section: str, *only_if: str, label: str = "Modality(ies) of the content covered"
) -> TemplateField:
    return TemplateField(name, section, label, ENGINEER, only_if=only_if)


def _question(name: str, section: str, label: str, who: str = ENGINEER) -> TemplateField:
    return TemplateField(name, section, label, who, is_question=True)


FIELDS = (
    TemplateField("version", "", "Version of the summary, with links to its earlier versions"),
    TemplateField("last_update", "", "Last update"),
    TemplateField("provider", "1.1", "Provider name and contact details"),
    TemplateField("authorised_representative", "1.1", "Authorised representative name and contact details"),
    TemplateField("model_names", "1.2", "Versioned model name(s)"),
    TemplateField("model_dependencies", "1.2", "Model dependencies"),
    TemplateField("placement_date", "1.2", "Date of placement of the model on the Union market"),
    TemplateField("text_size", "1.3", "Text: training data size", ENGINEER),
    TemplateField("text_content", "1.3", "Text: types of content", ENGINEER),
    TemplateField("image_size", "1.3", "Image: training data size", ENGINEER),
    TemplateField("image_content", "1.3", "Image: types of content", ENGINEER),
    TemplateField("audio", "1.3", "Audio: training data size and types of content", ENGINEER),
    TemplateField("video", "1.3", "Video: training data size and types of content", ENGINEER),
    TemplateField("other_modalities", "1.3", "Other modalities: training data size and types of content", ENGINEER),
    TemplateField(
        "latest_acquisition", "1.3", "Latest date of data acquisition/collection for model training", ENGINEER
    ),
    TemplateField("continuous_training", "1.3", "Continuous training on new or dynamic data after this date"),
    TemplateField(
        "languages", "1.3", "Description of the linguistic characteristics of the overall training data", ENGINEER
    ),
    TemplateField("other_characteristics", "1.3", "Other relevant characteristics of the overall training data"),
    _comments("general_comments", "1.3"),
    _question("public_used", "2.1", "Publicly available datasets were used to train the model"),
    _modalities("public_modalities", "2.1", "public_used"),
    TemplateField(
        "public_list", "2.1", "List of large publicly available datasets", ENGINEER, only_if=("public_used",)
    ),
    TemplateField(
        "public_others",
        "2.1",
        "General description of other publicly available datasets not listed above",
        ENGINEER,
        only_if=("public_used",),
    ),
    _comments("public_comments", "2.1", "public_used"),
    _question(
        "licensed_used",
        "2.2.1",
        "Transactional commercial licensing agreements with rightsholders or their representatives were concluded",
        PROVIDER,
    ),
    _modalities("licensed_modalities", "2.2.1", "licensed_used"),
    _question("private_used", "2.2.2", "Private datasets were obtained from third parties that are not in 2.2.1"),
    _modalities("private_modalities", "2.2.2", "private_used"),
    TemplateField(
        "private_known",
        "2.2.2",
        "List of publicly known private datasets obtained from third parties",
        only_if=("private_used",),
    ),
    TemplateField(
        "private_others",
        "2.2.2",
        "General description of non-publicly known private datasets obtained from third parties",
        only_if=("private_used",),
    ),
    _comments("private_comments", "2.2.2", "private_used"),
    _question("crawlers_used", "2.3", "Crawlers were used by the provider or on its behalf"),
    TemplateField("crawler_names", "2.3", "Crawler name(s)/identifier(s)", ENGINEER, only_if=("crawlers_used",)),
    TemplateField("crawler_purposes", "2.3", "Purposes of the crawler(s)", ENGINEER, only_if=("crawlers_used",)),
    TemplateField(
        "crawler_behaviour", "2.3", "General description of crawler behaviour", ENGINEER, only_if=("crawlers_used",)
    ),
    TemplateField("crawl_period", "2.3", "Period of data collection", ENGINEER, only_if=("crawlers_used",)),
    TemplateField(
        "crawl_content",
        "2.3",
        "Comprehensive description of the type of content and online sources crawled",
        ENGINEER,
        only_if=("crawlers_used",),
    ),
    _modalities("crawl_modalities", "2.3", "crawlers_used", label="Type of modality covered"),
    TemplateField(
        "crawl_domains",
        "2.3",
        "Summary of the most relevant domain names crawled",
        ENGINEER,
        only_if=("crawlers_used",),
    ),
    _comments("crawl_comments", "2.3", "crawlers_used"),
    _question("user_model_used", "2.4", "Data from user interactions with the model were used", PROVIDER),
    _question("user_services_used", "2.4", "Data from user interactions with other services were used", PROVIDER),
    TemplateField(
        "user_services",
        "2.4",
        "General description of the services or products that were used to collect the user data",
        only_if=("user_model_used", "user_services_used"),
    ),
    _modalities("user_modalities", "2.4", "user_model_used", "user_services_used", label="Type of modality covered"),
    _comments("user_comments", "2.4", "user_model_used", "user_services_used"),
    _question("synthetic_used", "2.5", "Synthetic data were created by the provider or on its behalf"),
    _modalities("synthetic_modalities", "2.5", "synthetic_used", label="Modality of the synthetic data"),
    TemplateField(
        "synthetic_models",
        "2.5",
        "General-purpose AI model(s) used to generate the synthetic data, if available on the market",
        ENGINEER,
        only_if=("synthetic_used",),
    ),
    TemplateField(
        "synthetic_other_models",
        "2.5",
        "Other AI models used to generate synthetic data, also own ones that are not on the market",
        only_if=("synthetic_used",),
    ),
    _comments("synthetic_comments", "2.5", "synthetic_used"),
    _question("other_used", "2.6", "Other sources of data were used"),
    TemplateField(
        "other_description", "2.6", "Narrative description of these data sources and the data", only_if=("other_used",)
    ),
    _comments("other_comments", "2.6", "other_used"),
    _question("code_of_practice", "3.1", "Signatory to the Code of Practice for general-purpose AI models", COUNSEL),
    TemplateField(
        "tdm_measures", "3.1", "Measures to respect reservations of rights, before and during data collection", ENGINEER
    ),
    _comments("tdm_comments", "3.1"),
    TemplateField(
        "illegal_measures", "3.2", "General description of measures taken to avoid or remove illegal content", ENGINEER
    ),
    TemplateField("processing", "3.3", "Other relevant information about data processing", is_optional=True),
)
"""All fields, in the order of the template."""

BY_NAME = {field.name: field for field in FIELDS}
