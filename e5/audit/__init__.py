"""Are these vectors right? If not, what was done to them?"""

from typing import TYPE_CHECKING

from e5.lazy import lazy_exports

if TYPE_CHECKING:
    from e5.audit.dialects import DIALECTS as DIALECTS
    from e5.audit.endpoint import EndpointAddress as EndpointAddress
    from e5.audit.endpoint import sample_endpoint as sample_endpoint
    from e5.audit.file_sample import sample_files as sample_files
    from e5.audit.gathered import Gathered as Gathered
    from e5.audit.gathered import LeftOut as LeftOut
    from e5.audit.gathered import judge as judge
    from e5.audit.local_source import LocalSource as LocalSource
    from e5.audit.report import AuditReport as AuditReport
    from e5.audit.report import RowVerdict as RowVerdict
    from e5.audit.sample import Sample as Sample
    from e5.audit.sample import TextRole as TextRole
    from e5.audit.vector_auditor import VectorAuditor as VectorAuditor
    from e5.audit.vector_source import EncoderSource as EncoderSource
    from e5.audit.vector_source import VectorSource as VectorSource
    from e5.audit.verdict import audit as audit

__all__, __getattr__, __dir__ = lazy_exports(__name__)
