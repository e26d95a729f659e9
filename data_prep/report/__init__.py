"""``report.html``: the page that a preparation leaves beside its manifest."""

from data_prep.report.page import REPORT_NAME as REPORT_NAME
from data_prep.report.page import write_report as write_report
