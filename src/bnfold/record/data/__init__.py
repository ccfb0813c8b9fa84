"""The record of a run: plain data from which every table and report is made.

Field names are those of the schema ``bnfold.report/1``. Later versions may add fields, but do not
rename any.
"""

from __future__ import annotations

from bnfold.record.data.certificates import Certificate as Certificate
from bnfold.record.data.certificates import CertificateKind as CertificateKind
from bnfold.record.data.certificates import CertificateVerdict as CertificateVerdict
from bnfold.record.data.certificates import Difference as Difference
from bnfold.record.data.certificates import ModelCertificate as ModelCertificate
from bnfold.record.data.certificates import OpenWindow as OpenWindow
from bnfold.record.data.equivalence import Cause as Cause
from bnfold.record.data.equivalence import Culprit as Culprit
from bnfold.record.data.equivalence import Divergence as Divergence
from bnfold.record.data.equivalence import Equivalence as Equivalence
from bnfold.record.data.equivalence import Inconclusive as Inconclusive
from bnfold.record.data.equivalence import InputsRecord as InputsRecord
from bnfold.record.data.equivalence import LevelComparison as LevelComparison
from bnfold.record.data.equivalence import LevelName as LevelName
from bnfold.record.data.equivalence import OverallVerdict as OverallVerdict
from bnfold.record.data.equivalence import ProviderEquivalence as ProviderEquivalence
from bnfold.record.data.equivalence import Selection as Selection
from bnfold.record.data.equivalence import Unsettled as Unsettled
from bnfold.record.data.equivalence import Verdict as Verdict
from bnfold.record.data.models import ModelFigures as ModelFigures
from bnfold.record.data.models import ModelRecord as ModelRecord
from bnfold.record.data.models import NodeDifference as NodeDifference
from bnfold.record.data.models import OutputRecord as OutputRecord
from bnfold.record.data.outputs import SHARES as SHARES
from bnfold.record.data.outputs import Flip as Flip
from bnfold.record.data.outputs import NonFinite as NonFinite
from bnfold.record.data.outputs import OutputComparison as OutputComparison
from bnfold.record.data.outputs import Tolerance as Tolerance
from bnfold.record.data.outputs import Truth as Truth
from bnfold.record.data.outputs import TruthOutput as TruthOutput
from bnfold.record.data.outputs import Worst as Worst
from bnfold.record.data.rewrites import ExactnessName as ExactnessName
from bnfold.record.data.rewrites import NodeSketch as NodeSketch
from bnfold.record.data.rewrites import PassRecord as PassRecord
from bnfold.record.data.rewrites import RefusalRecord as RefusalRecord
from bnfold.record.data.rewrites import RewriteRecord as RewriteRecord
from bnfold.record.data.run import SCHEMA as SCHEMA
from bnfold.record.data.run import Record as Record
from bnfold.record.data.run import json_key as json_key
from bnfold.record.data.run import strict_json as strict_json
from bnfold.record.data.speed import FEWEST_BLOCKS as FEWEST_BLOCKS
from bnfold.record.data.speed import ModelProfile as ModelProfile
from bnfold.record.data.speed import NodeTime as NodeTime
from bnfold.record.data.speed import OperatorTime as OperatorTime
from bnfold.record.data.speed import SpeedBlock as SpeedBlock
from bnfold.record.data.speed import SpeedRecord as SpeedRecord
from bnfold.record.data.speed import SpeedSummary as SpeedSummary
from bnfold.record.data.speed import SpeedVerdict as SpeedVerdict
from bnfold.record.data.speed import TuningRecord as TuningRecord
from bnfold.record.data.speed import TuningTrial as TuningTrial
